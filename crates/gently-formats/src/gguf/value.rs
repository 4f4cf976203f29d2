//! Values of metadata keys.

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7: a byte, 0 or 1.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// Type 9.
    Array(Array),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

/// An array of one type of element.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Elements of type 0.
    U8(Vec<u8>),
    /// Elements of type 1.
    I8(Vec<i8>),
    /// Elements of type 2.
    U16(Vec<u16>),
    /// Elements of type 3.
    I16(Vec<i16>),
    /// Elements of type 4.
    U32(Vec<u32>),
    /// Elements of type 5.
    I32(Vec<i32>),
    /// Elements of type 6.
    F32(Vec<f32>),
    /// Elements of type 7.
    Bool(Vec<bool>),
    /// Elements of type 8.
    Texts(Texts),
    /// Elements of type 9.
    Arrays(Vec<Array>),
    /// Elements of type 10.
    U64(Vec<u64>),
    /// Elements of type 11.
    I64(Vec<i64>),
    /// Elements of type 12.
    F64(Vec<f64>),
}

/// Many strings in one piece of memory: a vocabulary of short tokens would triple in size as separate strings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Texts {
    text: String,
    /// End of each string in `text`.
    ends: Vec<usize>,
}

impl Texts {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.text.get(start..end)
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }

    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    fn held(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<usize>()
    }
}

impl<S: AsRef<str>> FromIterator<S> for Texts {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Self {
        let mut all = Self::default();
        texts.into_iter().for_each(|t| all.push(t.as_ref()));
        all
    }
}

impl Value {
    /// The type's number in a file.
    pub fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Any integer that is not negative.
    pub fn as_uint(&self) -> Option<u64> {
        self.as_int().and_then(|v| u64::try_from(v).ok()).or(match self {
            Self::U64(v) => Some(*v),
            _ => None,
        })
    }

    /// Any integer that fits.
    pub fn as_int(&self) -> Option<i64> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::I64(v) => v,
            Self::U64(v) => i64::try_from(v).ok()?,
            _ => return None,
        })
    }

    /// A float, or an integer as one.
    pub fn as_real(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => self.as_int().map(|v| v as f64),
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> String {
        match self {
            Self::U8(_) | Self::U16(_) | Self::U32(_) | Self::U64(_) => "an unsigned integer".into(),
            Self::I8(_) | Self::I16(_) | Self::I32(_) | Self::I64(_) => "an integer".into(),
            Self::F32(_) | Self::F64(_) => "a number".into(),
            Self::Bool(_) => "true or false".into(),
            Self::Text(_) => "text".into(),
            Self::Array(a) => format!("an array of {} {}", a.len(), a.kind()),
        }
    }

    /// Bytes of memory held beside the value itself.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Text(t) => t.capacity(),
            Self::Array(a) => a.held(),
            _ => 0,
        }
    }
}

impl Array {
    /// The elements' type number in a file.
    pub fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Texts(_) => 8,
            Self::Arrays(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Texts(v) => v.len(),
            Self::Arrays(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of any integer type; `None` for others, and where one does not fit.
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        Some(match self {
            Self::U8(v) => v.iter().map(|&v| v.into()).collect(),
            Self::I8(v) => v.iter().map(|&v| v.into()).collect(),
            Self::U16(v) => v.iter().map(|&v| v.into()).collect(),
            Self::I16(v) => v.iter().map(|&v| v.into()).collect(),
            Self::U32(v) => v.iter().map(|&v| v.into()).collect(),
            Self::I32(v) => v.iter().map(|&v| v.into()).collect(),
            Self::I64(v) => v.clone(),
            Self::U64(v) => return v.iter().map(|&v| i64::try_from(v).ok()).collect(),
            _ => return None,
        })
    }

    /// Elements of either float type.
    pub fn to_reals(&self) -> Option<Vec<f64>> {
        match self {
            Self::F32(v) => Some(v.iter().map(|&v| v.into()).collect()),
            Self::F64(v) => Some(v.clone()),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Texts(_) => "texts",
            Self::Arrays(_) => "arrays",
            Self::Bool(_) => "truth values",
            Self::F32(_) | Self::F64(_) => "numbers",
            _ => "integers",
        }
    }

    fn held(&self) -> usize {
        match self {
            Self::U8(v) => v.capacity(),
            Self::I8(v) => v.capacity(),
            Self::Bool(v) => v.capacity(),
            Self::U16(v) => v.capacity() * 2,
            Self::I16(v) => v.capacity() * 2,
            Self::U32(v) => v.capacity() * 4,
            Self::I32(v) => v.capacity() * 4,
            Self::F32(v) => v.capacity() * 4,
            Self::U64(v) => v.capacity() * 8,
            Self::I64(v) => v.capacity() * 8,
            Self::F64(v) => v.capacity() * 8,
            Self::Texts(v) => v.held(),
            Self::Arrays(v) => v.capacity() * size_of::<Array>() + v.iter().map(Array::held).sum::<usize>(),
        }
    }
}
