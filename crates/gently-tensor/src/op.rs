//! The list of operations that have a backward.
//!
//! A node of the tape carries one of these, so an operation cannot be recorded without being in the list, and the list
//! is what the gradient checks are held against.
//!
//! ```
//! use gently_tensor::Op;
//! assert!(Op::ALL.contains(&Op::Linear));
//! assert_eq!(Op::Linear.name(), "linear");
//! ```

macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An operation with a backward.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Op { $($(#[$doc])* $variant,)* }

        impl Op {
            /// Every operation with a backward.
            pub const ALL: &'static [Op] = &[$(Op::$variant,)*];

            /// The name used in error messages.
            pub const fn name(self) -> &'static str {
                match self { $(Op::$variant => $name,)* }
            }
        }
    };
}

ops! {
    /// a + b, broadcasting.
    Add = "add",
    /// a − b, broadcasting.
    Sub = "sub",
    /// a · b, broadcasting.
    Mul = "mul",
    /// a / b, broadcasting.
    Div = "div",
    /// The larger of two, broadcasting.
    Maximum = "maximum",
    /// The smaller of two, broadcasting.
    Minimum = "minimum",
    /// −x.
    Neg = "neg",
    /// eˣ.
    Exp = "exp",
    /// Natural logarithm.
    Ln = "ln",
    /// Square root.
    Sqrt = "sqrt",
    /// x².
    Sqr = "sqr",
    /// 1/x.
    Recip = "recip",
    /// |x|.
    Abs = "abs",
    /// Hyperbolic tangent.
    Tanh = "tanh",
    /// 1/(1 + e⁻ˣ).
    Sigmoid = "sigmoid",
    /// sin x.
    Sin = "sin",
    /// cos x.
    Cos = "cos",
    /// x to a constant power.
    Powf = "powf",
    /// scale·x + shift.
    Affine = "affine",
    /// relu, relu2, silu, gelu_tanh, gelu_erf.
    Activation = "activation",
    /// silu(gate)·up.
    Swiglu = "swiglu",
    /// Sum over dimensions.
    Sum = "sum",
    /// Largest over a dimension.
    Max = "max",
    /// Softmax over the last dimension.
    Softmax = "softmax",
    /// Logarithm of the softmax over the last dimension.
    LogSoftmax = "log_softmax",
    /// Batched matrix product.
    Matmul = "matmul",
    /// x·Wᵀ with bias, activation and residual.
    Linear = "linear",
    /// Random zeros.
    Dropout = "dropout",
    /// Layer norm.
    LayerNorm = "layer_norm",
    /// Root-mean-square norm.
    RmsNorm = "rms_norm",
    /// Rotary positions.
    Rope = "rope",
    /// Attention on separate queries, keys and values.
    Attention = "attention",
    /// Attention on one packed projection.
    AttentionPacked = "attention_packed",
    /// Rows of a table by id.
    Embedding = "embedding",
    /// Output projection and cross entropy in one.
    LinearCrossEntropy = "linear_cross_entropy",
    /// Cross entropy of given logits.
    CrossEntropy = "cross_entropy",
    /// Another shape on the same elements.
    Reshape = "reshape",
    /// Dimensions in another order.
    Permute = "permute",
    /// A range of one dimension.
    Narrow = "narrow",
    /// Repeated along dimensions of size 1.
    Broadcast = "broadcast_to",
    /// The same values, in order and without gaps.
    Contiguous = "contiguous",
    /// Tensors joined along a dimension.
    Cat = "cat",
    /// Slices of one dimension by index.
    IndexSelect = "index_select",
    /// Elements of one dimension by index.
    Gather = "gather",
    /// Another float dtype.
    ToDtype = "to_dtype",
    /// A block that is computed again in the backward.
    Checkpoint = "checkpoint",
}
