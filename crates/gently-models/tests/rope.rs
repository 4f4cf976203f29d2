//! Rotary positions of configurations against Python transformers: `golden/rope.json` (see `golden/make_rope.py`).

use gently_models::DecoderConfig;
use gently_models::families::read_config;
use serde_json::{Value, json};
use std::path::Path;

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rope.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Holds a model to what transformers makes of its configuration.
fn check(name: &str, cfg: &DecoderConfig, case: &Value) {
    // Where some layers have a window, the first has one and the last has none.
    let last = cfg.layers - 1;
    let mut lists = vec![(cfg.rope_frequencies(last), &case["frequencies"])];
    if let Some(local) = case.get("local") {
        lists.push((cfg.rope_frequencies(0), local));
        assert_eq!(cfg.rope_scale(0), 1.0, "{name}");
    }
    for (ours, theirs) in lists {
        let theirs: Vec<f64> = theirs.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert!((a - b).abs() <= 1e-6 * b, "{name}, pair {i}: {a}, not {b}");
        }
    }
    assert!((cfg.rope_scale(last) - case["scale"].as_f64().unwrap()).abs() < 1e-9, "{name}: {:?}", cfg.rope_scale);
    assert_eq!(cfg.context as u64, case["context"], "{name}");
}

#[test]
fn positions_are_those_of_transformers() {
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let read = |json: &Value| read_config(json, Path::new(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (layout, cfg) = read(&case["config"]);
        check(name, &cfg, &case);
        // Out again, in the kind that the divisors are of, for readers that know nothing of our own entry.
        assert!(layout.entry().unwrap().covers(&cfg), "{name}");
        let mut json = layout.to_json(&cfg);
        json.as_object_mut().unwrap().remove("gently");
        let rope = json.get("rope_scaling").unwrap_or(&json["rope_parameters"]);
        assert_eq!(rope["rope_type"], case["written"], "{name}");
        let (found, again) = read(&json);
        assert_eq!(found, layout, "{name}");
        check(name, &again, &case);
    }
}

#[test]
fn what_cannot_be_computed_is_named() {
    let plain = &cases()[0]["config"];
    let three = json!({ "rope_type": "longrope", "short_factor": [1.0, 1.0, 1.0], "long_factor": [1.0, 1.0, 1.0] });
    let refused = [
        ("rope_scaling", json!({ "rope_type": "dynamic", "factor": 2.0 }), "rope_scaling = {"),
        ("rope_parameters", json!({ "rope_theta": -1.0 }), "rope_theta = -1.0"),
        ("rope_parameters", json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor = 0.5"),
        ("rope_scaling", json!({ "rope_type": "linear" }), "factor is missing"),
        ("rope_scaling", json!({ "rope_type": "yarn" }), "factor is missing"),
        ("rope_scaling", json!({ "rope_type": "longrope" }), "short_factor is missing"),
        ("rope_scaling", json!({ "rope_type": "longrope", "short_factor": [1.0, "a"] }), "not an array of numbers"),
        ("rope_scaling", three, "rope_factors = 3 numbers must be one for each of the 16 pairs"),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0, "attention_factor": 0.0 }), "rope_scale = 0 must"),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0, "beta_fast": "32" }), "beta_fast = \"32\" is not"),
    ];
    for (key, value, said) in refused {
        let mut config = plain.clone();
        config[key] = value;
        let error = read_config(&config, Path::new("config.json")).unwrap_err();
        assert!(error.to_string().contains(said) && error.hint().is_some(), "{said}: {error}");
    }
}
