//! A model as an algorithm on paper, with its real sizes.
//!
//! Here: pseudocode in the style of Phuong & Hutter, "Formal Algorithms for Transformers" (2022): columns are
//! tokens, matrices act from the left, every parameter appears with its shape. Only the parts this model has are
//! printed. Not here: counting (see [`crate::flops`]).
//!
//! ```
//! use gently_models::{config::DecoderConfig, spec};
//! let text = spec::text(&DecoderConfig::named("gpt2").unwrap());
//! assert!(text.contains("W_qkv ∈ ℝ^{2304×768}"));
//! ```

use crate::config::{DecoderConfig, MlpKind, NormKind, NormPlace, Position};
use crate::flops::Cost;
use std::fmt::Write;

/// The algorithm of `cfg` as text: parameters, embedding, attention, MLP, the whole forward pass.
pub fn text(cfg: &DecoderConfig) -> String {
    let mut s = Spec { cfg, out: String::new(), algorithms: 0 };
    s.notation();
    s.parameters();
    s.normalisation();
    if cfg.position == Position::Rotary {
        s.rotation();
    }
    s.attention();
    s.mlp();
    s.decoder();
    s.training();
    s.cost();
    s.out
}

struct Spec<'a> {
    cfg: &'a DecoderConfig,
    out: String,
    algorithms: usize,
}

impl Spec<'_> {
    fn line(&mut self, text: impl AsRef<str>) {
        self.out.push_str(text.as_ref());
        self.out.push('\n');
    }

    fn algorithm(&mut self, title: &str) {
        self.algorithms += 1;
        let n = self.algorithms;
        let _ = write!(self.out, "\nAlgorithm {n}: {title}\n\n");
    }

    /// Numbers the lines of an algorithm; a line that starts with spaces keeps them.
    fn steps(&mut self, steps: &[String]) {
        for (i, step) in steps.iter().enumerate() {
            let _ = writeln!(self.out, "{:>3}  {step}", i + 1);
        }
    }

    fn notation(&mut self) {
        let c = self.cfg;
        self.line("Notation. A sequence of T token ids x[1..T], each in [V]. Columns are tokens: X ∈ ℝ^{C×T}, X[:,t]");
        self.line("its t-th column, X[a:b,:] rows a+1 to b. ⊙ is the product of elements, 1 a column of ones. log is natural.");
        self.line("");
        self.line("Hyperparameters");
        let mut rows = vec![
            ("V", c.vocab, "token ids"),
            ("ℓmax", c.context, "longest sequence"),
            ("L", c.layers, "blocks"),
            ("C", c.width, "channels of the residual stream"),
            ("H", c.heads, "query heads"),
        ];
        if c.kv_heads() != c.heads {
            rows.push(("Hk", c.kv_heads(), "key and value heads"));
        }
        rows.push(("D", c.head_width(), "channels of a head"));
        rows.push(("M", c.mlp_width(), "hidden channels of the MLP"));
        if let Some(w) = c.window {
            rows.push(("w", w, "tokens a token sees, itself included"));
        }
        if let Some(n) = c.window_skip.filter(|_| c.window.is_some()) {
            rows.push(("n", n, "in every n-th block it sees all before it"));
        }
        for (letter, value, meaning) in rows {
            let _ = writeln!(self.out, "  {letter:<5} = {value:<8} {meaning}");
        }
    }

    fn parameters(&mut self) {
        let c = self.cfg;
        let (w, d, m, q) = (c.width, c.head_width(), c.mlp_width(), c.qkv_width());
        let norm = |name: &str| match (c.norm, c.norm_bias) {
            (NormKind::Layer, true) => format!("γ_{name}, β_{name} ∈ ℝ^{{{w}}}"),
            _ => format!("γ_{name} ∈ ℝ^{{{w}}}"),
        };
        let mut rows = vec![(format!("W_e ∈ ℝ^{{{w}×{}}}", c.vocab), "token embeddings".to_owned())];
        if c.position == Position::Learned {
            rows.push((format!("W_p ∈ ℝ^{{{w}×{}}}", c.context), "position embeddings".into()));
        }
        let bias =
            |on: bool, name: &str, n: usize| if on { format!(", {name} ∈ ℝ^{{{n}}}") } else { String::new() };
        if c.embed_norm {
            rows.push((norm("e"), "norm of the embeddings".into()));
        }
        rows.push((format!("for each block l ∈ [{}]:", c.layers), String::new()));
        rows.push((format!("  {}", norm("1")), "norm of the attention branch".into()));
        let qkv = format!("  W_qkv ∈ ℝ^{{{q}×{w}}}{}", bias(c.attention_bias, "b_qkv", q));
        rows.push((qkv, "queries, keys, values of all heads".into()));
        if c.qk_norm {
            let shape = match c.qk_norm_wide {
                true => format!("  γ_q ∈ ℝ^{{{}}}, γ_k ∈ ℝ^{{{}}}", c.heads * d, c.kv_heads() * d),
                false => format!("  γ_q, γ_k ∈ ℝ^{{{d}}}"),
            };
            rows.push((shape, "norms of queries and keys".into()));
        }
        let out = format!("  W_o ∈ ℝ^{{{w}×{}}}{}", c.heads * d, bias(c.out_bias(), "b_o", w));
        rows.push((out, "output of attention".into()));
        rows.push((format!("  {}", norm("2")), "norm of the MLP branch".into()));
        if c.norm_place == NormPlace::Both {
            rows.push((format!("  {}; {}", norm("3"), norm("4")), "norms of the branches' outputs".into()));
        }
        if c.mlp.is_gated() {
            let b = if c.mlp_bias { format!(", b_g, b_u ∈ ℝ^{{{m}}}") } else { String::new() };
            rows.push((format!("  W_g, W_u ∈ ℝ^{{{m}×{w}}}{b}"), "gate and values of the MLP".into()));
        } else {
            rows.push((format!("  W_u ∈ ℝ^{{{m}×{w}}}{}", bias(c.mlp_bias, "b_u", m)), "MLP, in".into()));
        }
        rows.push((format!("  W_d ∈ ℝ^{{{w}×{m}}}{}", bias(c.mlp_bias, "b_d", w)), "MLP, out".into()));
        if c.norm_place != NormPlace::Post {
            rows.push((norm("f"), "last norm".into()));
        }
        let head = if c.tied_head {
            ("W_h = W_eᵀ".to_owned(), "head, tied to the embeddings".to_owned())
        } else {
            (format!("W_h ∈ ℝ^{{{}×{w}}}", c.vocab), "head".to_owned())
        };
        rows.push(head);
        self.line("");
        self.line("Parameters θ");
        for (shape, meaning) in rows {
            let _ = writeln!(self.out, "  {}", format!("{shape:<44} {meaning}").trim_end());
        }
    }

    fn normalisation(&mut self) {
        let eps = self.cfg.norm_eps;
        match self.cfg.norm {
            NormKind::Layer => {
                let (args, shift) = if self.cfg.norm_bias { ("γ, β", " + β") } else { ("γ", "") };
                self.algorithm(&format!("ê ← norm(e | {args})   layer norm of a column"));
                self.steps(&[
                    "m ← Σᵢ e[i] / C".into(),
                    "v ← Σᵢ (e[i] − m)² / C".into(),
                    format!("return (e − m) / √(v + {eps:e}) ⊙ γ{shift}"),
                ]);
            }
            NormKind::Rms => {
                self.algorithm("ê ← norm(e | γ)   RMS norm of a column");
                self.steps(&["r ← Σᵢ e[i]² / C".into(), format!("return e / √(r + {eps:e}) ⊙ γ")]);
            }
        }
    }

    fn rotation(&mut self) {
        let (d, theta) = (self.cfg.rotary_width(), self.cfg.rope_theta);
        let factor = if self.cfg.rope_factors.is_some() { " / factor[i]" } else { "" };
        let (open, close) = match self.cfg.rope_scale {
            Some(scale) => (format!("{scale}·("), ")"),
            None => (String::new(), ""),
        };
        self.algorithm("ŷ ← rotate(y, t)   rotary position of a query or key y ∈ ℝ^D at position t, counted from 0");
        self.steps(&[
            format!("for i ∈ [0, {}):", d / 2),
            format!("  a ← t · {theta}^(−2i/{d}){factor}"),
            format!("  ŷ[i]     ← {open}y[i]·cos a − y[i+{}]·sin a{close}", d / 2),
            format!("  ŷ[i+{}] ← {open}y[i+{}]·cos a + y[i]·sin a{close}", d / 2, d / 2),
            match self.cfg.head_width() {
                all if all == d => "return ŷ".into(),
                _ => format!("return ŷ, whose channels from {d} on are those of y"),
            },
        ]);
        if let Some(local) = self.cfg.local_rope_theta.filter(|_| self.cfg.window.is_some()) {
            let without = match (factor, close) {
                ("", "") => "",
                (_, "") => ", without the factors",
                ("", _) => ", and 1 for the number in front",
                _ => ", without the factors, and 1 for the number in front",
            };
            self.line(format!("In blocks with a window {local} stands for {theta}{without}."));
        }
    }

    fn attention(&mut self) {
        let c = self.cfg;
        let (h, hk, d) = (c.heads, c.kv_heads(), c.head_width());
        let kind = if c.bidirectional { "" } else { "causal " };
        self.algorithm(&format!("Ỹ ← attend(X | W_qkv, W_o, …)   {kind}attention, X ∈ ℝ^{{C×T}}"));
        let bias = |on: bool, name: &str| if on { format!(" + {name}·1ᵀ") } else { String::new() };
        let group = if hk == h { "h".to_owned() } else { format!("⌊h/{}⌋", h / hk) };
        let mut s = vec![
            format!("P ← W_qkv X{}", bias(c.attention_bias, "b_qkv")),
            format!("for h ∈ [0, {h}), with g = {group}:"),
            format!("  Q ← P[{d}h : {d}(h+1), :]"),
            format!("  K ← P[{} + {d}g : {} + {d}(g+1), :]", h * d, h * d),
            format!("  U ← P[{} + {d}g : {} + {d}(g+1), :]", (h + hk) * d, (h + hk) * d),
        ];
        if c.qk_norm && c.qk_norm_wide {
            s.push(
                "  (before the cut into heads: the columns of all Q and of all K ← rmsnorm(· | γ_q), rmsnorm(· | γ_k))"
                    .into(),
            );
        } else if c.qk_norm {
            s.push("  Q[:,t] ← rmsnorm(Q[:,t] | γ_q), K[:,t] ← rmsnorm(K[:,t] | γ_k) for all t".into());
        }
        if c.position == Position::Rotary {
            s.push("  Q[:,t] ← rotate(Q[:,t], t−1), K[:,t] ← rotate(K[:,t], t−1) for all t".into());
        }
        s.push(match c.attention_scale {
            Some(scale) => format!("  S ← {scale} · KᵀQ"),
            None => format!("  S ← KᵀQ / √{d}"),
        });
        if let Some(cap) = c.attention_softcap {
            s.push(format!("  S ← {cap} · tanh(S / {cap})"));
        }
        if c.position == Position::Alibi {
            s.push("  S[j,t] ← S[j,t] − a_h·(t − j) for all j, t, with a_h the ALiBi slope of head h".into());
        }
        match c.window {
            _ if c.bidirectional => {}
            Some(w) if c.window_skip.is_some() => {
                s.push(format!("  S[j,t] ← −∞ where j > t, or, unless n divides l, j ≤ t − {w}"));
            }
            None => s.push("  S[j,t] ← −∞ where j > t".into()),
            Some(w) => s.push(format!("  S[j,t] ← −∞ where j > t or j ≤ t − {w}")),
        }
        s.push("  Y_h ← U · softmax(S), softmax over each column".into());
        s.push(format!("return W_o [Y_0; …; Y_{}]{}", h - 1, bias(c.out_bias(), "b_o")));
        self.steps(&s);
    }

    fn mlp(&mut self) {
        let c = self.cfg;
        self.algorithm("ỹ ← mlp(e | …)   for one column e ∈ ℝ^C");
        let bias = |name: &str| if c.mlp_bias { format!(" + {name}") } else { String::new() };
        let hidden = match c.mlp {
            MlpKind::Swiglu => {
                let (g, u) = (bias("b_g"), bias("b_u"));
                format!("h ← silu(W_g e{g}) ⊙ (W_u e{u}), silu(z) = z/(1 + e^{{−z}})")
            }
            MlpKind::Geglu => {
                let (g, u) = (bias("b_g"), bias("b_u"));
                format!("h ← gelu(W_g e{g}) ⊙ (W_u e{u}), gelu(z) = z/2·(1 + tanh(√(2/π)(z + 0.044715 z³)))")
            }
            kind => {
                let (name, rule) = match kind {
                    MlpKind::Gelu => ("gelu", "z/2·(1 + tanh(√(2/π)(z + 0.044715 z³)))"),
                    MlpKind::GeluErf => ("gelu", "z/2·(1 + erf(z/√2))"),
                    MlpKind::Relu2 => ("relu²", "max(0, z)²"),
                    MlpKind::Relu => ("relu", "max(0, z)"),
                    MlpKind::Silu | MlpKind::Swiglu | MlpKind::Geglu => ("silu", "z/(1 + e^{−z})"),
                };
                format!("h ← {name}(W_u e{}), {name}(z) = {rule}", bias("b_u"))
            }
        };
        self.steps(&[hidden, format!("return W_d h{}", bias("b_d"))]);
    }

    fn decoder(&mut self) {
        let c = self.cfg;
        let norm = |n: &str| match (c.norm, c.norm_bias) {
            (NormKind::Layer, true) => format!("γ_{n}, β_{n}"),
            _ => format!("γ_{n}"),
        };
        self.algorithm("P ← decoder(x | θ)   P[:,t] is the distribution of x[t+1] given x[1..t]");
        let mut s = vec![match c.position {
            Position::Learned => "X[:,t] ← W_e[:, x[t]] + W_p[:, t] for t ∈ [T]".to_owned(),
            Position::Sinusoidal => "X[:,t] ← W_e[:, x[t]] + sinusoid(t−1) for t ∈ [T]".to_owned(),
            _ => "X[:,t] ← W_e[:, x[t]] for t ∈ [T]".to_owned(),
        }];
        if let Some(scale) = c.embed_scale {
            s[0] = s[0].replacen("W_e", &format!("{scale}·W_e"), 1);
        }
        if c.embed_norm {
            s.push(format!("X ← norm(X | {})", norm("e")));
        }
        s.push(format!("for l ∈ [{}], with the parameters of block l:", c.layers));
        let (one, two) = (norm("1"), norm("2"));
        match c.norm_place {
            NormPlace::Pre if c.parallel => {
                s.push(format!("  X ← X + attend(norm(X | {one})) + mlp(norm(X | {two}))"));
            }
            NormPlace::Out => {
                s.push(format!("  X ← X + norm(attend(X) | {one})"));
                s.push(format!("  X ← X + norm(mlp(X) | {two})"));
            }
            NormPlace::Pre => {
                s.push(format!("  X ← X + attend(norm(X | {one}))"));
                s.push(format!("  X ← X + mlp(norm(X | {two}))"));
            }
            NormPlace::Post => {
                s.push(format!("  X ← norm(X + attend(X) | {one})"));
                s.push(format!("  X ← norm(X + mlp(X) | {two})"));
            }
            NormPlace::Both => {
                s.push(format!("  X ← X + norm(attend(norm(X | {one})) | {})", norm("3")));
                s.push(format!("  X ← X + norm(mlp(norm(X | {two})) | {})", norm("4")));
            }
        }
        if c.norm_place != NormPlace::Post {
            s.push(format!("X ← norm(X | {})", norm("f")));
        }
        s.push("Z ← W_h X".into());
        if let Some(cap) = c.logit_softcap {
            s.push(format!("Z ← {cap} · tanh(Z / {cap})"));
        }
        s.push("return softmax(Z), over each column".into());
        self.steps(&s);
        if c.position == Position::Sinusoidal {
            let _ = writeln!(
                self.out,
                "\nwhere sinusoid(t)[2i] = sin(t / 10000^(2i/{w})), sinusoid(t)[2i+1] = cos(t / 10000^(2i/{w})).",
                w = c.width
            );
        }
    }

    fn training(&mut self) {
        self.algorithm("loss(x | θ)   minimised by training");
        let mut s = vec!["P ← decoder(x[1..T] | θ)".to_owned()];
        if self.cfg.dropout > 0.0 {
            let p = self.cfg.dropout;
            s[0].push_str(&format!(", with dropout {p} on X₀, on softmax(S) and on each branch's output"));
        }
        s.push("return −Σ_t log P[x[t+1], t] / T".into());
        self.steps(&s);
    }

    fn cost(&mut self) {
        let (cost, t) = (Cost::of(self.cfg), self.cfg.context);
        let training = cost.training_flops_per_token(t);
        let _ = write!(
            self.out,
            "\nCost. {} parameters. A token in a sequence of {t}, on average: {:.3e} operations forward, {:.3e} in training.\n\
             Keys and values of one token: {} bytes in f32.\n",
            cost.parameters,
            training / 3.0,
            training,
            cost.kv_bytes_per_token(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Family;

    #[test]
    fn gpt2_says_what_gpt2_is() {
        let text = text(&DecoderConfig::preset(Family::Gpt2));
        for part in
            ["W_e ∈ ℝ^{768×50257}", "W_p ∈ ℝ^{768×1024}", "W_h = W_eᵀ", "layer norm", "tanh(√(2/π)", "124439808"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("rotate"));
    }

    #[test]
    fn llama_says_what_llama_is() {
        let cfg = DecoderConfig {
            logit_softcap: Some(30.0),
            window: Some(128),
            rope_scale: Some(1.5),
            ..DecoderConfig::preset(Family::Llama)
        };
        let text = text(&cfg);
        for part in
            ["RMS norm", "rotate(Q[:,t], t−1)", "⌊h/3⌋", "W_g, W_u", "30 · tanh", "j ≤ t − 128", "W_h ∈ ℝ^{49152×576}"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.contains("← 1.5·(y[i]·cos a"), "{text}");
        assert!(!text.contains("W_p"));
    }
}
