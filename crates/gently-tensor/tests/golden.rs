//! Losses and gradients of two decoder steps and some loose operations against PyTorch's (`golden/make.py`).

use gently_tensor::*;
use serde_json::Value;
use std::collections::BTreeMap;

const CPU: Device = Device::Cpu;
const B: usize = 2;
const T: usize = 7;
const V: usize = 11;
const C: usize = 16;
const H: usize = 4;
const HK: usize = 2;
const M: usize = 24;

type Weights = BTreeMap<&'static str, Tensor>;

/// The formula of make.py.
fn weight(tag: &'static str, shape: &[usize], dtype: DType) -> Tensor {
    let phase: u32 = tag.chars().map(|c| c as u32).sum();
    let base = if tag.starts_with("norm") { 1.0 } else { 0.0 };
    let n: usize = shape.iter().product();
    let data: Vec<f64> = (0..n).map(|i| base + 0.3 * (0.37 * i as f64 + f64::from(phase)).sin()).collect();
    let t = Tensor::from_slice(&data, shape, &CPU).unwrap();
    t.to_dtype(dtype).unwrap().param().unwrap()
}

fn weights(list: &[(&'static str, &[usize])], dtype: DType) -> Weights {
    list.iter().map(|&(tag, shape)| (tag, weight(tag, shape, dtype))).collect()
}

fn batch() -> (Tensor, Tensor) {
    let ids: Vec<u32> = (0..B * T).map(|i| ((3 * i * i + 5 * i) % V) as u32).collect();
    let mut targets: Vec<u32> = (0..B * T).map(|i| ((7 * i + 2) % V) as u32).collect();
    targets[3] = IGNORE;
    let t = |v: &[u32]| Tensor::from_slice(v, [B, T], &CPU).unwrap();
    (t(&ids), t(&targets))
}

const SCORED: f64 = (B * T - 1) as f64;

fn gpt2(dtype: DType) -> Result<(Weights, Tensor)> {
    let w = weights(
        &[
            ("embed", &[V, C]),
            ("position", &[T, C]),
            ("norm1", &[C]),
            ("shift1", &[C]),
            ("qkv", &[3 * C, C]),
            ("qkv_bias", &[3 * C]),
            ("out", &[C, C]),
            ("out_bias", &[C]),
            ("norm2", &[C]),
            ("shift2", &[C]),
            ("up", &[4 * C, C]),
            ("up_bias", &[4 * C]),
            ("down", &[C, 4 * C]),
            ("down_bias", &[C]),
            ("norm3", &[C]),
            ("shift3", &[C]),
        ],
        dtype,
    );
    let (ids, targets) = batch();
    let x = w["embed"].embedding_with_positions(&ids, &w["position"], 0)?;
    let h = x.layer_norm(&w["norm1"], Some(&w["shift1"]), 1e-5)?;
    let y = h
        .linear(&LinearArgs::new(&w["qkv"]).bias(&w["qkv_bias"]))?
        .attention_packed(H, H, None, None, &AttentionSpec::causal(C / H))?
        .reshape([B, T, C])?;
    let x = y.linear(&LinearArgs::new(&w["out"]).bias(&w["out_bias"]).residual(&x))?;
    let h = x.layer_norm(&w["norm2"], Some(&w["shift2"]), 1e-5)?;
    let up = LinearArgs::new(&w["up"]).bias(&w["up_bias"]).activation(Activation::GeluTanh);
    let down = LinearArgs::new(&w["down"]).bias(&w["down_bias"]).residual(&x);
    let x = h.linear(&up)?.linear(&down)?;
    let x = x.layer_norm(&w["norm3"], Some(&w["shift3"]), 1e-5)?;
    let loss = x.linear_cross_entropy(&w["embed"], &targets, 1.0 / SCORED, None, Compute::F32)?;
    Ok((w, loss))
}

fn llama(dtype: DType) -> Result<(Weights, Tensor)> {
    let d = C / H;
    let w = weights(
        &[
            ("embed", &[V, C]),
            ("norm1", &[C]),
            ("qkv", &[(H + 2 * HK) * d, C]),
            ("out", &[C, C]),
            ("norm2", &[C]),
            ("gate_up", &[2 * M, C]),
            ("down", &[C, M]),
            ("norm3", &[C]),
            ("head", &[V, C]),
        ],
        dtype,
    );
    let (ids, targets) = batch();
    let rope = Rope::new(16, d, 10_000.0, RopeStyle::Half)?;
    let slopes: Vec<f32> = (0..H).map(|i| 0.5f32.powi(i as i32 + 1)).collect();
    let mut spec = AttentionSpec::causal(d);
    spec.alibi = Some(Tensor::from_slice(&slopes, [H], &CPU)?);
    let x = w["embed"].embedding(&ids)?;
    let h = x.rms_norm(&w["norm1"], 1e-6)?.linear(&LinearArgs::new(&w["qkv"]))?;
    let y = h.attention_packed(H, HK, Some(&rope), None, &spec)?.reshape([B, T, C])?;
    let x = y.linear(&LinearArgs::new(&w["out"]).residual(&x))?;
    let h = x.rms_norm(&w["norm2"], 1e-6)?.linear(&LinearArgs::new(&w["gate_up"]))?;
    let x = h.swiglu()?.linear(&LinearArgs::new(&w["down"]).residual(&x))?;
    let x = x.rms_norm(&w["norm3"], 1e-6)?;
    let loss = x.linear_cross_entropy(&w["head"], &targets, 1.0 / SCORED, Some(5.0), Compute::F32)?;
    Ok((w, loss))
}

fn pieces(dtype: DType) -> Result<(Weights, Tensor)> {
    let w = weights(&[("a", &[3, 4, 5]), ("b", &[5])], dtype);
    let (a, b) = (&w["a"], &w["b"]);
    let left = a.div(&b.affine(1.0, 2.0)?)?.log_softmax()?;
    let y = Tensor::cat(&[&left, &a.gelu_erf()?], 1)?;
    let ids = Tensor::from_slice(&[0u32, 4, 2], [1, 1, 3], &CPU)?.broadcast_to([3, 8, 3])?;
    let y = y.gather(2, &ids)?.transpose(0, 1)?;
    let right = a.sigmoid()?.mul(&b.tanh()?)?.select(1, 0)?;
    let z = y.max(2, false)?.exp()?.matmul(&right)?;
    let loss = z.mul(&z)?.mean_all()?;
    Ok((w, loss))
}

fn compare(name: &str, dtype: DType, tolerance: f64, f: fn(DType) -> Result<(Weights, Tensor)>) {
    let golden: Value = serde_json::from_str(include_str!("golden/blocks.json")).unwrap();
    let (w, loss) = f(dtype).unwrap();
    let want = golden[name]["loss"].as_f64().unwrap();
    let got = loss.to_f64_vec().unwrap()[0];
    assert!((got - want).abs() <= tolerance * want.abs(), "{name} {dtype}: loss {got}, not {want}");
    let grads = loss.backward().unwrap();
    assert_eq!(grads.len(), w.len());
    for (tag, leaf) in &w {
        let want: Vec<f64> =
            golden[name]["grads"][tag].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let got = grads.get(leaf).unwrap().to_f64_vec().unwrap();
        assert_eq!(got.len(), want.len(), "{tag}");
        let size = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!((g - w).abs() <= tolerance * size, "{name} {dtype}: gradient {i} of {tag} is {g}, not {w}");
        }
    }
}

#[test]
fn gpt2_step_agrees_with_pytorch() {
    compare("gpt2", DType::F64, 1e-10, gpt2);
    compare("gpt2", DType::F32, 2e-5, gpt2);
}

#[test]
fn llama_step_agrees_with_pytorch() {
    // Slopes of ALiBi are exact in f32, so f64 agrees to f64's precision; the scale 1/√D is exact too (D = 4).
    compare("llama", DType::F64, 1e-10, llama);
    compare("llama", DType::F32, 2e-5, llama);
}

#[test]
fn loose_operations_agree_with_pytorch() {
    compare("pieces", DType::F64, 1e-10, pieces);
    compare("pieces", DType::F32, 2e-5, pieces);
}
