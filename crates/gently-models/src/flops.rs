//! What a model costs: parameters, floating-point operations and bytes, by formula.
//!
//! Here: [`Cost`] and its stated conventions. Not here: measured memory of a training step (the trainer plans it
//! by running the step on the meta device).
//!
//! **Convention.** A multiply-add is two operations. Per token, a forward pass costs `2·N` for the N weights that
//! take part in matrix products (the head counts, also when tied; looking a row up in a table costs nothing), and
//! `4·L·H·D` for the score and the weighted sum of each token that it sees. A backward pass costs twice the forward. Norms,
//! activations and recomputation are not counted.
//!
//! Of attention's square only what the mask leaves is counted, on average `(T+1)/2` tokens in a causal sequence of T: what no
//! program can do without. Over a machine's peak it gives the time that no program can beat, the **floor**, and a share of the
//! peak that is honest. PaLM (Chowdhery et al. 2022, appendix B) and nanoGPT count the full square, so their shares of the peak
//! are higher, the more the longer sequences are.
//!
//! ```
//! use gently_models::{config::DecoderConfig, flops::Cost};
//! let cost = Cost::of(&DecoderConfig::named("gpt2").unwrap());
//! assert_eq!(cost.parameters, 124_439_808);
//! ```

use crate::config::{DecoderConfig, NormKind, NormPlace, Position};

/// Counts that follow from a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// All parameters; a tied head counts once.
    pub parameters: u64,
    /// Parameters of the embedding tables (token and position), the head aside.
    pub embedding_parameters: u64,
    /// N: weights that take part in matrix products, the head included.
    pub matmul_parameters: u64,
    /// `L·H·D`, channels of all heads, over the layers that see everything: what attention multiplies with the visible length.
    attention_width: u64,
    /// The same over the layers with a window.
    local_width: u64,
    window: u64,
    /// A token sees those after it too.
    bidirectional: bool,
    kv_elements: u64,
}

impl Cost {
    /// The cost of a valid configuration.
    pub fn of(cfg: &DecoderConfig) -> Self {
        let (l, c, v) = (cfg.layers as u64, cfg.width as u64, cfg.vocab as u64);
        let (m, d) = (cfg.mlp_width() as u64, cfg.head_width() as u64);
        let qkv = cfg.qkv_width() as u64;
        let hd = cfg.heads as u64 * d;
        let up = if cfg.mlp.is_gated() { 2 * m } else { m };

        let matrices = qkv * c + c * hd + up * c + c * m;
        let when = |on: bool, n: u64| if on { n } else { 0 };
        let biases = when(cfg.attention_bias, qkv) + when(cfg.out_bias(), c) + when(cfg.mlp_bias, up + c);
        let norm = c + when(cfg.norm_bias && cfg.norm == NormKind::Layer, c);
        let block_norms = if cfg.norm_place == NormPlace::Both { 4 } else { 2 };
        let final_norm = when(cfg.norm_place != NormPlace::Post, norm) + when(cfg.embed_norm, norm);
        let block = matrices
            + biases
            + block_norms * norm
            + when(cfg.qk_norm, if cfg.qk_norm_wide { hd + cfg.kv_heads() as u64 * d } else { 2 * d });

        let global = match (cfg.window, cfg.window_skip) {
            (None, _) => l,
            (Some(_), skip) => skip.map_or(0, |n| l / (n as u64).max(1)),
        };
        let positions = when(cfg.position == Position::Learned, cfg.context as u64 * c);
        let head = when(!cfg.tied_head, v * c);
        Self {
            parameters: l * block + v * c + positions + final_norm + head,
            embedding_parameters: v * c + positions,
            matmul_parameters: l * matrices + v * c,
            attention_width: global * hd,
            local_width: (l - global) * hd,
            window: cfg.window.unwrap_or(0) as u64,
            bidirectional: cfg.bidirectional,
            kv_elements: 2 * l * cfg.kv_heads() as u64 * d,
        }
    }

    /// Operations of a forward pass for a token that sees `t` tokens, itself among them. A number over all that is counted here
    /// stays at the greatest, so that a length that nobody has does not look like a short one.
    pub fn forward_flops_per_token(&self, t: usize) -> u64 {
        let t = t as u64;
        let local = self.local_width.saturating_mul(self.window.min(t));
        let scores = self.attention_width.saturating_mul(t).saturating_add(local);
        self.matmul_parameters.saturating_mul(2).saturating_add(scores.saturating_mul(4))
    }

    /// Operations of a training step (forward and backward) per token, on average over sequences of `t` tokens. The forward pass
    /// is a third of them.
    pub fn training_flops_per_token(&self, t: usize) -> f64 {
        let t = t as f64;
        // The first tokens see those before them and themselves, the others as many as the window holds.
        let visible = |window: f64| {
            let first = t.min(window);
            match self.bidirectional {
                true => t,
                false => (first * (first + 1.0) / 2.0 + (t - first) * first) / t.max(1.0),
            }
        };
        let scores = self.attention_width as f64 * visible(t) + self.local_width as f64 * visible(self.window as f64);
        6.0 * self.matmul_parameters as f64 + 12.0 * scores
    }

    /// Bytes of the weights at `bytes_each` bytes for a parameter.
    pub fn weight_bytes(&self, bytes_each: u64) -> u64 {
        self.parameters * bytes_each
    }

    /// Bytes of keys and values for one token of one sequence, in f32.
    pub fn kv_bytes_per_token(&self) -> u64 {
        4 * self.kv_elements
    }

    /// Bytes of weights, gradients and AdamW's two moments in f32: what training holds besides activations.
    pub fn adamw_bytes(&self) -> u64 {
        self.parameters * 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_sizes() {
        // Parameter counts of the published files.
        let cases = [
            ("gpt2", 124_439_808),
            ("gpt2-medium", 354_823_168),
            ("gpt2-large", 774_030_080),
            ("gpt2-xl", 1_557_611_200),
            ("smollm2-135m", 134_515_008),
            ("llama2-7b", 6_738_415_616),
        ];
        for (name, count) in cases {
            assert_eq!(Cost::of(&DecoderConfig::named(name).unwrap()).parameters, count, "{name}");
        }
    }

    #[test]
    fn the_last_token_sees_all_of_its_sequence() {
        let cfg = DecoderConfig::named("gpt2").unwrap();
        let cost = Cost::of(&cfg);
        let n = cost.matmul_parameters;
        assert_eq!(cost.forward_flops_per_token(1024), 2 * n + 4 * 12 * 768 * 1024);
        let small = cost.parameters - 1024 * 768 - n;
        assert_eq!(small, 12 * (4 * 768 + 2304 + 768 + 3072 + 768) + 2 * 768, "what is left is norms and biases");
        let window = DecoderConfig { window: Some(16), ..cfg };
        assert_eq!(Cost::of(&window).forward_flops_per_token(1024), 2 * n + 4 * 12 * 768 * 16);
        // A length without end is no short one.
        assert_eq!(cost.forward_flops_per_token(usize::MAX), u64::MAX);
        let without_end = cost.training_flops_per_token(usize::MAX);
        assert!(without_end.is_finite() && without_end > u64::MAX as f64);
    }

    #[test]
    fn training_counts_visible_scores() {
        let cfg = DecoderConfig::named("gpt2").unwrap();
        let products = 6.0 * Cost::of(&cfg).matmul_parameters as f64;
        let attention = |cfg: &DecoderConfig, t| Cost::of(cfg).training_flops_per_token(t) - products;
        // A token sees (T + 1)/2 others on average; in a window of 16, all but the first 15 see 16.
        assert_eq!(attention(&cfg, 1024), 12.0 * 12.0 * 768.0 * 512.5);
        let window = DecoderConfig { window: Some(16), ..cfg.clone() };
        assert_eq!(attention(&window, 64) * 64.0, 12.0 * 12.0 * 768.0 * (49.0 * 16.0 + 120.0));
        assert_eq!(attention(&window, 16), attention(&cfg, 16));
        let encoder = DecoderConfig { bidirectional: true, ..cfg };
        assert_eq!(attention(&encoder, 64), 12.0 * 12.0 * 768.0 * 64.0);
    }
}
