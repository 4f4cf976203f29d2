//! The state of softmax attention: keys and values of the tokens seen.
//!
//! Here: storage that grows in place, forks without copying, and with a window forgets what no token can see
//! any more. Not here: attention itself (see [`super::SoftmaxAttention`]).

use super::MixerState;
use crate::error::{Error, Result};
use gently_tensor::{DType, Device, Tensor};
use std::sync::Arc;

/// Keys and values of the tokens seen, `[B, rows, Hk, D]` each.
#[derive(Debug, Clone)]
pub struct KvCache {
    batch: usize,
    kv_heads: usize,
    head_width: usize,
    window: Option<usize>,
    /// Position of the first row kept.
    start: usize,
    /// Rows in use; the store may have room for more.
    rows: usize,
    store: Option<Arc<Store>>,
}

/// Room for `capacity` rows. Written only while one cache holds it.
#[derive(Debug)]
struct Store {
    capacity: usize,
    keys: Tensor,
    values: Tensor,
}

impl KvCache {
    /// An empty cache. `window` is the number of tokens a token can see, itself included; with 0 or 1 it sees none before it.
    pub fn new(batch: usize, kv_heads: usize, head_width: usize, window: Option<usize>) -> Self {
        Self { batch, kv_heads, head_width, window, start: 0, rows: 0, store: None }
    }

    /// How many rows in front of the next token are kept.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds keys and values `[B,T,Hk,D]` and gives back all that are kept, `[B, rows, Hk, D]`, the new ones last.
    ///
    /// # Errors
    /// [`Error::State`] for another batch, head count or width.
    pub fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let (b, h, d) = (self.batch, self.kv_heads, self.head_width);
        let t = match *keys.dims() {
            [kb, t, kh, kd] if (kb, kh, kd) == (b, h, d) && keys.dims() == values.dims() => t,
            ref other => {
                let what = format!("it holds keys of shape [{b}, T, {h}, {d}], and was given {other:?}");
                return Err(Error::State { what });
            }
        };
        self.drop_unseen()?;
        self.reserve(t, keys.dtype(), keys.device())?;
        let rows = self.rows + t;
        let Some(store) = &self.store else { return Ok((keys.clone(), values.clone())) };
        for (into, from) in [(&store.keys, keys), (&store.values, values)] {
            copy_rows(from, 0, into, self.rows, t)?;
        }
        self.rows = rows;
        Ok((store.keys.narrow(1, 0, rows)?, store.values.narrow(1, 0, rows)?))
    }

    /// Makes the store ours alone, with room for `more` rows.
    fn reserve(&mut self, more: usize, dtype: DType, device: Device) -> Result<()> {
        let need = self.rows + more;
        if let Some(store) = &mut self.store
            && store.capacity >= need
            && Arc::get_mut(store).is_some()
        {
            return Ok(());
        }
        // Doubling keeps the copying at a constant number of bytes for each token.
        let capacity = need.next_power_of_two().max(16);
        self.move_to(self.start, capacity, dtype, device)
    }

    /// Moves the rows from position `start` on into a new store.
    fn move_to(&mut self, start: usize, capacity: usize, dtype: DType, device: Device) -> Result<()> {
        let shape = [self.batch, capacity, self.kv_heads, self.head_width];
        let (keys, values) = (Tensor::zeros(shape, dtype, &device)?, Tensor::zeros(shape, dtype, &device)?);
        let skip = start - self.start;
        if let Some(old) = &self.store {
            copy_rows(&old.keys, skip, &keys, 0, self.rows - skip)?;
            copy_rows(&old.values, skip, &values, 0, self.rows - skip)?;
        }
        self.rows -= skip;
        self.start = start;
        self.store = Some(Arc::new(Store { capacity, keys, values }));
        Ok(())
    }

    /// With a window: once half of the rows are out of sight of the next token, lets go of them.
    fn drop_unseen(&mut self) -> Result<()> {
        let (Some(window), Some(store)) = (self.window, &self.store) else { return Ok(()) };
        let seen = window.saturating_sub(1);
        if self.rows <= seen.max(16).saturating_mul(2) {
            return Ok(());
        }
        let (dtype, device) = (store.keys.dtype(), store.keys.device());
        let capacity = (3 * seen.max(16)).next_power_of_two();
        self.move_to(self.start + self.rows - seen, capacity, dtype, device)
    }
}

/// Copies `n` rows of each batch row from row `at` of `from` to row `to` of `into`; both `[B, rows, Hk, D]`.
fn copy_rows(from: &Tensor, at: usize, into: &Tensor, to: usize, n: usize) -> Result<()> {
    fn copy<T: gently_tensor::Element>(from: &Tensor, into: &Tensor, to: usize, n: usize) -> Result<()> {
        let width = into.dims()[2] * into.dims()[3];
        let capacity = into.dims()[1];
        from.with_data::<T, Result<()>>(|src| {
            into.with_data_mut::<T, _>(|dst| {
                for (dst, src) in dst.chunks_exact_mut(capacity * width).zip(src.chunks_exact(n * width)) {
                    dst[to * width..(to + n) * width].copy_from_slice(src);
                }
            })?;
            Ok(())
        })?
    }
    if n == 0 || into.numel() == 0 || into.device() == Device::Meta {
        return Ok(());
    }
    let from = from.narrow(1, at, n)?;
    match from.dtype() {
        DType::F64 => copy::<f64>(&from, into, to, n),
        _ => copy::<f32>(&from, into, to, n),
    }
}

impl MixerState for KvCache {
    fn len(&self) -> usize {
        self.start + self.rows
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        if len > self.len() {
            let what = format!("it has seen {} tokens and cannot be cut to {len}", self.len());
            return Err(Error::State { what });
        }
        // The next token must still find all it can see.
        let sees = self.window.map_or(len, |w| len.min(w.saturating_sub(1)));
        if len - sees < self.start {
            let what = format!("it keeps tokens from {} on and cannot go back to {len}", self.start);
            return Err(Error::State { what });
        }
        self.rows = len - self.start;
        Ok(())
    }

    fn bytes(&self) -> usize {
        let Some(store) = &self.store else { return 0 };
        2 * store.keys.numel() * store.keys.dtype().size()
    }

    fn save(&self) -> Result<Vec<(&'static str, Tensor)>> {
        // Cut to nothing it may have a store, of which a fresh one takes nothing.
        let Some(store) = self.store.as_ref().filter(|_| !self.is_empty()) else { return Ok(Vec::new()) };
        let rows = |t: &Tensor| -> Result<Tensor> { Ok(t.narrow(1, 0, self.rows)?.copy()?) };
        Ok(vec![("keys", rows(&store.keys)?), ("values", rows(&store.values)?)])
    }

    fn load(&mut self, len: usize, get: &mut dyn FnMut(&str) -> Result<Tensor>) -> Result<()> {
        *self = Self::new(self.batch, self.kv_heads, self.head_width, self.window);
        if len == 0 {
            return Ok(());
        }
        let (keys, values) = (get("keys")?, get("values")?);
        let rows = keys.dims().get(1).copied().unwrap_or(0);
        let needed = self.window.map_or(len, |w| len.min(w.saturating_sub(1)));
        if rows > len || rows < needed {
            let what = format!("{rows} rows of keys were saved for {len} tokens, {needed} are needed");
            return Err(Error::State { what });
        }
        self.start = len - rows;
        self.append(&keys, &values)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_sizes_of_nothing_hold_nothing_too_many() {
        for (heads, width, window) in
            [(1, 2, Some(0)), (1, 2, Some(1)), (1, 2, Some(usize::MAX)), (1, 0, Some(3)), (0, 2, None)]
        {
            let mut cache = KvCache::new(2, heads, width, window);
            let token = Tensor::ones([2, 1, heads, width], DType::F32, &Device::Cpu).unwrap();
            for seen in 1..60 {
                let (keys, values) = cache.append(&token, &token).unwrap();
                assert_eq!((keys.dims(), cache.len()), (values.dims(), seen));
                let least = window.map_or(seen, |w| seen.min(w.max(1)));
                assert!((least..=seen).contains(&keys.dims()[1]), "{window:?}: {keys:?}");
            }
            cache.truncate(59).unwrap();
        }
    }
}
