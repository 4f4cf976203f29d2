//! A saved state whose checksum is right, as that of somebody who means harm would be: what loads goes on, whatever its keys and
//! values are.
#![no_main]
use gently_fuzz::Place;
use gently_infer::{Plan, PlanOptions, State, Work};
use gently_models::Decoder;
use gently_models::config::{DecoderConfig, Family};
use gently_tensor::{Device, Rng};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use xxhash_rust::xxh3::xxh3_64;

static PLACE: LazyLock<Place> = LazyLock::new(|| Place::new("state"));
static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    gently_kernels::pool::set_threads(1);
    let cfg = DecoderConfig {
        vocab: 5,
        context: 80,
        layers: 1,
        heads: 1,
        kv_heads: Some(1),
        width: 2,
        mlp_width: Some(2),
        ..DecoderConfig::preset(Family::Llama)
    };
    Plan::new(&Decoder::new(&cfg, &Rng::new(1), &Device::Cpu).unwrap(), PlanOptions::default()).unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    // A small state of this model, of which the input replaces bytes: eight of a place, then one.
    let mut file = Vec::new();
    if let [first, rest @ ..] = bytes
        && first % 2 == 0
    {
        let mut state = PLAN.state();
        let count = usize::from(first / 2) % 80;
        if count > 0 {
            PLAN.read(&mut Work::new(), &mut state, &vec![1; count]).unwrap();
        }
        let path = PLACE.path("saved");
        state.save(&path).unwrap();
        file = std::fs::read(path).unwrap();
        for change in rest.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % file.len();
            file[at] = change[2];
        }
    } else if !bytes.is_empty() {
        file.extend(&bytes[1..]);
    }
    if let Some(last) = file.len().checked_sub(8) {
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()).min(1 << 40) as usize;
        if let Some(data) = file.get(header + 8..last) {
            let sum = xxh3_64(data);
            file[last..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let Ok(mut state) = State::load(PLACE.write("state", &file), &PLAN) else { return };
    assert!(state.len() <= 80);
    if state.len() < 80 {
        PLAN.read(&mut Work::new(), &mut state, &[4]).unwrap();
    }
});
