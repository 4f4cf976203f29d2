//! Optimizers against PyTorch's numbers, and every path against the plain twins.

use super::moments::{round, round_both};
use super::*;
use crate::cpu;
use crate::gemm::Compute;
use crate::lanes::testing::{close, random, same_on_threads, wide};
use crate::thread_buffer::{Slot, kept};
use half::bf16;

// Made by tests/golden/optimizers.py with torch 2.15.
const ADAMW: [f64; 7] = [
    0.815_139_682_989_572_5,
    0.905_056_355_867_601,
    0.157_130_609_627_603_03,
    -0.746_220_913_043_461_2,
    -0.947_813_061_206_400_6,
    -0.262_054_461_186_698_1,
    0.653_345_058_324_400_8,
];
const LION: [f64; 7] = [
    0.828_979_085_424_956_2,
    0.916_582_251_528_187_7,
    0.150_667_081_254_591_77,
    -0.744_544_347_472_687_7,
    -0.946_060_367_653_048_8,
    -0.268_608_079_671_408_15,
    0.665_027_599_225_442_2,
];
const MUON_TALL_BF16: [f64; 12] = [
    0.620_122_350_224_561_9,
    0.970_292_824_829_954_6,
    0.080_923_122_529_631_31,
    -0.734_099_924_005_559_7,
    -0.848_992_673_445_646_4,
    -0.292_556_142_442_103,
    0.591_909_565_429_909,
    0.845_958_603_406_633_9,
    0.143_782_263_730_291_93,
    -0.697_201_011_254_426_8,
    -0.872_665_839_388_147_8,
    -0.574_378_115_730_555_5,
];
const MUON_TALL: [f64; 12] = [
    0.620_892_121_959_679_4,
    0.969_944_164_799_354_2,
    0.081_518_555_383_883_21,
    -0.732_391_042_226_514_3,
    -0.847_174_576_083_890_9,
    -0.292_580_708_233_792_4,
    0.589_892_011_666_813_5,
    0.847_357_445_260_821_7,
    0.147_202_899_576_714_6,
    -0.697_247_338_688_982_9,
    -0.872_895_145_821_664_6,
    -0.573_772_006_779_215_9,
];
const MUON_WIDE_MATCHED: [f64; 12] = [
    0.758_931_336_111_755_7,
    0.913_545_528_562_712_8,
    0.116_911_181_930_740_45,
    -0.734_560_037_769_236_3,
    -0.938_873_431_959_850_2,
    -0.310_033_406_358_083_24,
    0.649_219_579_027_724_4,
    0.890_630_461_579_492,
    0.311_026_144_428_603_43,
    -0.569_313_985_922_281_3,
    -0.970_024_861_599_639_6,
    -0.537_452_810_979_547_4,
];

fn start(n: usize) -> Vec<f64> {
    (1..=n).map(|i| (i as f64).sin()).collect()
}

fn gradient(t: u64, n: usize) -> Vec<f64> {
    (1..=n).map(|i| (i as f64 * 0.7 * t as f64).cos() * 0.5 + 0.1).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

/// The plain twin in f64 must agree to rounding.
fn exact(got: &[f64], want: &[f64]) {
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-12, "{got:?} is not {want:?}");
    }
}

#[test]
fn adamw_is_that_of_pytorch() {
    let opt = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-3, weight_decay: 0.1, grad_scale: 0.5, noise: [0; 2] };
    let (mut w, mut m, mut v) = (start(7), vec![0.0; 7], vec![0.0; 7]);
    for t in 1..=3 {
        let g: Vec<f64> = gradient(t, 7).iter().map(|g| g * 2.0).collect();
        plain::adamw(&opt, t, &mut w, &g, &mut m, &mut v);
    }
    exact(&w, &ADAMW);
    let (mut w, mut m, mut v) = (narrow(&start(7)), vec![0.0; 7], vec![0.0; 7]);
    for t in 1..=3 {
        let g: Vec<f32> = gradient(t, 7).iter().map(|&g| g as f32 * 2.0).collect();
        opt.step(t, &mut w, &g, &mut m[..], &mut v[..]);
    }
    close(&w, &ADAMW, 1e-6, "adamw");
}

#[test]
fn lion_is_that_of_the_paper() {
    let opt = Lion { lr: 0.01, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, grad_scale: 1.0, noise: [0; 2] };
    let (mut w, mut m) = (start(7), vec![0.0; 7]);
    for t in 1..=3 {
        plain::lion(&opt, &mut w, &gradient(t, 7), &mut m);
    }
    exact(&w, &LION);
    let (mut w, mut m) = (narrow(&start(7)), vec![0.0; 7]);
    for t in 1..=3 {
        opt.step(&mut w, &narrow(&gradient(t, 7)), &mut m[..]);
    }
    close(&w, &LION, 1e-6, "lion");
}

#[test]
fn muon_is_that_of_pytorch() {
    let run = |opt: Muon, rows: usize, cols: usize| {
        let (mut w, mut m) = (narrow(&start(12)), vec![0.0; 12]);
        for t in 1..=3 {
            opt.step(rows, cols, &mut w, &narrow(&gradient(t, 12)), &mut m[..]).unwrap();
        }
        w
    };
    let opt = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.1, ..Muon::default() };
    close(&run(opt, 4, 3), &MUON_TALL, 1e-5, "tall");
    // bfloat16 has 8 bits: an update of size 0.1 is right to some thousandths.
    close(&run(opt, 4, 3), &MUON_TALL_BF16, 5e-3, "tall against bfloat16");
    close(&run(Muon { compute: Compute::Bf16, ..opt }, 4, 3), &MUON_TALL, 5e-3, "tall in bfloat16");
    let opt = Muon { scale: MuonScale::Moonlight, ..opt };
    close(&run(opt, 3, 4), &MUON_WIDE_MATCHED, 1e-5, "wide");
}

#[test]
fn a_muon_step_is_its_plain_computation() {
    let usual = Muon { lr: 0.05, weight_decay: 0.3, grad_scale: 0.7, ..Muon::default() };
    let ways = [(true, MuonScale::Jordan), (false, MuonScale::Jordan), (true, MuonScale::Moonlight)];
    let cases = [(24, 40), (40, 24), (1, 5)].into_iter().flat_map(|size| ways.map(|way| (size, way)));
    for ((rows, cols), (nesterov, scale)) in cases {
        let n = rows * cols;
        let (w0, m0, g) = (random(1, n), random(2, n), wide(&random(3, n)));
        let (mut w, mut m) = (w0.clone(), m0.clone());
        Muon { nesterov, scale, ..usual }.step(rows, cols, &mut w, &narrow(&g), &mut m[..]).unwrap();
        // μ·m + (1 − μ)·g, and once more to look ahead.
        let ahead = |m: &[f64]| m.iter().zip(&g).map(|(m, g)| 0.95 * m + 0.05 * 0.7 * g).collect::<Vec<f64>>();
        let momentum = ahead(&wide(&m0));
        let mut update = if nesterov { ahead(&momentum) } else { momentum.clone() };
        plain::orthogonalize(&mut update, rows, cols, usual.steps);
        let (r, c) = (rows as f64, cols as f64);
        let factor = if scale == MuonScale::Jordan { (r / c).max(1.0).sqrt() } else { 0.2 * r.max(c).sqrt() };
        let stepped = |(w, u): (&f32, &f64)| f64::from(*w) * (1.0 - 0.05 * 0.3) - 0.05 * factor * u;
        let want: Vec<f64> = w0.iter().zip(&update).map(stepped).collect();
        close(&m, &momentum, 1e-5, "momentum");
        close(&w, &want, 1e-4, "parameters");
    }
}

#[test]
fn orthogonalized_matrices_are_nearly_orthogonal() {
    for (rows, cols) in [(24, 40), (40, 24), (1, 5), (16, 16)] {
        let mut x = random(1, rows * cols);
        let mut want = wide(&x);
        plain::orthogonalize(&mut want, rows, cols, 5);
        // The room holds what was left there; a second call takes no other one.
        orthogonalize(&mut x.clone(), rows, cols, 5, Compute::F32).unwrap();
        let room = kept(Slot::Call);
        orthogonalize(&mut x, rows, cols, 5, Compute::F32).unwrap();
        assert_eq!(kept(Slot::Call), room);
        close(&x, &want, 1e-4, "newton-schulz");
        // ‖X‖² is the sum of squared singular values, each of which is near 1.
        let mean = x.iter().map(|v| v * v).sum::<f32>() / rows.min(cols) as f32;
        assert!((0.4..1.4).contains(&mean), "{rows} × {cols}: {mean}");
    }
}

#[test]
fn every_path_agrees_with_the_plain_twins() {
    for n in [1, 15, 16, 17, 70_000] {
        let (w0, m0, g) = (random(1, n), random(2, n), random(3, n));
        let v0: Vec<f32> = random(4, n).iter().map(|v| v * v).collect();
        let adamw = AdamW { weight_decay: 0.3, grad_scale: 0.7, ..AdamW::default() };
        let lion = Lion { weight_decay: 0.3, grad_scale: 0.7, ..Lion::default() };
        let (mut w, mut m, mut v) = (wide(&w0), wide(&m0), wide(&v0));
        plain::adamw(&adamw, 5, &mut w, &wide(&g), &mut m, &mut v);
        let (mut lw, mut lm) = (wide(&w0), wide(&m0));
        plain::lion(&lion, &mut lw, &wide(&g), &mut lm);
        for path in cpu::available() {
            let (mut fw, mut fm, mut fv) = (w0.clone(), m0.clone(), v0.clone());
            adamw.step_on(path, 5, &mut fw, &g, fm[..].as_mut().into(), fv[..].as_mut().into());
            close(&fw, &w, 1e-5, "adamw weights");
            close(&fm, &m, 1e-6, "adamw first moment");
            close(&fv, &v, 1e-6, "adamw second moment");
            let (mut fw, mut fm) = (w0.clone(), m0.clone());
            lion.step_on(path, &mut fw, &g, fm[..].as_mut().into());
            close(&fw, &lw, 1e-6, "lion weights");
            close(&fm, &lm, 1e-6, "lion momentum");
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (rows, cols) = (96, 200);
    let (w0, g) = (random(1, rows * cols), random(2, rows * cols));
    same_on_threads(|| {
        let (mut w, mut m, mut v) = (w0.clone(), vec![0.0; w0.len()], vec![0.0; w0.len()]);
        AdamW::default().step(1, &mut w, &g, &mut m[..], &mut v[..]);
        Muon::default().step(rows, cols, &mut w, &g, &mut m[..]).unwrap();
        w
    });
}

/// The two numbers of bf16 around x, the one nearer to 0 first.
fn neighbours(x: f32) -> [f32; 2] {
    let down = x.to_bits() & 0xffff_0000;
    let up = if x.to_bits() == down { down } else { down + 0x1_0000 };
    [down, up].map(f32::from_bits)
}

#[test]
fn rounding_at_random_takes_a_neighbour_and_keeps_the_mean() {
    let n = 1 << 16;
    // A quarter of the way from one number of bf16 to the next: a fourth of them must go up.
    let x = vec![f32::from_bits(0x3f80_4000); n];
    let mut to = vec![bf16::ZERO; n];
    for key in 0..8 {
        round(&x, &mut to, [key, 5], 3);
        let up = to.iter().filter(|v| v.to_bits() == 0x3f81).count();
        assert!(to.iter().all(|v| matches!(v.to_bits(), 0x3f80 | 0x3f81)));
        // Six standard deviations of 65,536 draws.
        assert!((up as f64 - n as f64 / 4.0).abs() < 6.0 * (n as f64 * 3.0 / 16.0).sqrt(), "key {key}: {up}");
        // Neighbouring draws know nothing of each other.
        let pairs = to.as_chunks::<2>().0.iter().filter(|p| p[0].to_bits() == 0x3f81 && p[1] == p[0]).count();
        assert!((pairs as f64 - n as f64 / 32.0).abs() < 6.0 * (n as f64 / 32.0).sqrt(), "key {key}: {pairs} pairs");
    }
    // Both halves of a word keep the mean, and know nothing of each other.
    let (mut m, mut v) = (vec![bf16::ZERO; n], vec![bf16::ZERO; n]);
    round_both([&x, &x], &mut m, &mut v, [3, 5], 3);
    let up = |v: &bf16| v.to_bits() == 0x3f81;
    for half in [&m, &v] {
        let count = half.iter().filter(|v| up(v)).count();
        assert!((count as f64 - n as f64 / 4.0).abs() < 6.0 * (n as f64 * 3.0 / 16.0).sqrt(), "{count}");
    }
    let both = m.iter().zip(&v).filter(|(m, v)| up(m) && up(v)).count();
    assert!((both as f64 - n as f64 / 16.0).abs() < 6.0 * (n as f64 / 16.0).sqrt(), "{both} went up together");
    // What bf16 has stays, whatever its bits.
    let has = [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x0001_0000)];
    let mut to = [bf16::ZERO; 7];
    for block in 0..100 {
        round(&has, &mut to, [1, 2], block);
        assert_eq!(to.map(|v| v.to_f32().to_bits()), has.map(f32::to_bits));
    }
    let mut to = [bf16::ZERO; 3];
    round(&[f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xff80_0001)], &mut to, [1, 2], 0);
    assert!(to.iter().all(|v| v.is_nan()), "{to:?}");
}

#[test]
fn moments_in_bf16_make_the_same_step_and_are_rounded_after_it() {
    let n = 40_000;
    let narrow = |x: Vec<f32>| x.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>();
    let exact = |x: &[bf16]| x.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    let (w0, g) = (random(1, n), random(2, n));
    let (m0, v0) = (narrow(random(3, n)), narrow(random(4, n).iter().map(|v| v * v).collect()));
    let near = |got: &[bf16], computed: &[f32]| {
        let mut changed = 0;
        for (got, x) in got.iter().zip(computed) {
            assert!(neighbours(*x).contains(&got.to_f32()), "{got} for {x}");
            changed += usize::from(neighbours(*x)[1] == got.to_f32());
        }
        assert!((n / 3..n * 2 / 3).contains(&changed), "{changed} of {n} went up");
    };
    for path in cpu::available() {
        let adamw = AdamW { weight_decay: 0.3, noise: [7, 9], ..AdamW::default() };
        let (mut w, mut m, mut v) = (w0.clone(), m0.clone(), v0.clone());
        adamw.step_on(path, 5, &mut w, &g, m[..].as_mut().into(), v[..].as_mut().into());
        let (mut fw, mut fm, mut fv) = (w0.clone(), exact(&m0), exact(&v0));
        adamw.step_on(path, 5, &mut fw, &g, fm[..].as_mut().into(), fv[..].as_mut().into());
        assert!(w == fw, "adamw");
        near(&m, &fm);
        near(&v, &fv);
        // Each moment has its own random numbers.
        let up = |got: &[bf16], of: &[f32]| -> Vec<bool> {
            got.iter().zip(of).map(|(got, x)| neighbours(*x)[1] == got.to_f32()).collect()
        };
        let same = up(&m, &fm).iter().zip(up(&v, &fv)).filter(|(a, b)| *a == b).count();
        assert!((n * 2 / 5..n * 3 / 5).contains(&same), "{same} of {n} moments went the same way");

        let lion = Lion { weight_decay: 0.3, noise: [7, 9], ..Lion::default() };
        let (mut w, mut m) = (w0.clone(), m0.clone());
        lion.step_on(path, &mut w, &g, m[..].as_mut().into());
        let (mut fw, mut fm) = (w0.clone(), exact(&m0));
        lion.step_on(path, &mut fw, &g, fm[..].as_mut().into());
        assert!(w == fw, "lion");
        near(&m, &fm);
    }
    let muon = Muon { noise: [7, 9], ..Muon::default() };
    let (mut w, mut m) = (w0.clone(), m0.clone());
    muon.step(100, 400, &mut w, &g, &mut m[..]).unwrap();
    let (mut fw, mut fm) = (w0.clone(), exact(&m0));
    muon.step(100, 400, &mut fw, &g, &mut fm[..]).unwrap();
    assert!(w == fw, "muon");
    near(&m, &fm);

    same_on_threads(|| {
        let (mut w, mut m, mut v) = (w0.clone(), m0.clone(), v0.clone());
        AdamW { noise: [1, 2], ..AdamW::default() }.step(1, &mut w, &g, &mut m[..], &mut v[..]);
        (w, m, v)
    });
}
