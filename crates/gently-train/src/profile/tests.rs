//! A profile of a run: its sums, its schema, its page.

use gently_tensor::{DType, Device, LinearArgs, Tensor, profile};

use super::*;

fn small() -> Profile {
    let x = Tensor::ones([32, 16], DType::F32, &Device::Cpu).unwrap().param().unwrap();
    let w = Tensor::ones([8, 16], DType::F32, &Device::Cpu).unwrap().param().unwrap();
    profile::start();
    for _ in 0..2 {
        let _step = profile::phase(STEP);
        let loss = {
            let _phase = profile::phase("forward");
            let mut sum = None;
            for layer in 0..2 {
                let _part = profile::part(format_args!("blocks.{layer}.<up>"));
                let y = x.linear(&LinearArgs::new(&w)).unwrap().sum_all().unwrap();
                sum = Some(sum.map_or_else(|| y.clone(), |s: Tensor| s.add(&y).unwrap()));
            }
            sum.unwrap()
        };
        let _phase = profile::phase("backward");
        loss.backward().unwrap();
    }
    let peaks = Peaks { products: 4e9, f32: 2e9, bytes_per_second: 1e9 };
    let facts = Facts { name: "<b>".into(), peaks, steps: 2, tokens_per_step: 64, first_step: 4, ..Facts::default() };
    Profile::of(&profile::finish().unwrap(), facts)
}

#[test]
fn calls_are_summed_by_part_and_layer() {
    let p = small();
    let linear = |layer, pass: &str, detail: &str| -> &CallRow {
        let found = |c: &&CallRow| c.op == "linear" && c.layer == Some(layer) && c.pass == pass && c.detail == detail;
        p.calls.iter().find(found).unwrap()
    };
    for layer in [0, 1] {
        let forward = linear(layer, "forward", "");
        assert_eq!((forward.part.as_str(), forward.kernel.as_str(), forward.count), ("<up>", "gemm", 2));
        assert_eq!(forward.flops, 2.0 * (2 * 32 * 16 * 8) as f64);
        // 4,096 multiply-adds at 2 GFLOP/s are 4.1 µs; their 3,584 bytes at 1 GB/s are 3.6 µs.
        assert!((forward.floor_seconds - 2.0 * 8192.0 / 2e9).abs() < 1e-12, "{forward:?}");
        assert_eq!(linear(layer, "backward", "dx").count, 2);
        assert_eq!(linear(layer, "backward", "dw").count, 2);
    }
    let both = p.by_part();
    let sum = both.iter().find(|r| r.op == "linear" && r.pass == "forward").unwrap();
    assert_eq!((sum.count, sum.layer), (4, None));
    assert!(both.windows(2).all(|w| w[0].seconds >= w[1].seconds), "the slowest first");
    let names: Vec<&str> = p.phases.iter().map(|x| x.name.as_str()).collect();
    assert_eq!(names, [STEP, "forward", "backward"]);
    assert_eq!(p.step_seconds.len(), 2);
    let (whole, outside) = p.step_and_outside();
    assert!(whole > 0.0 && outside < whole);
    let kernels: f64 = p.calls.iter().map(|c| c.seconds).sum();
    assert!((whole - outside - kernels).abs() < 1e-9, "what is not outside is in kernels");
}

#[test]
fn bf16_products_are_held_to_their_own_peak() {
    let peaks = Peaks { products: 4e9, f32: 2e9, bytes_per_second: 1e15 };
    assert_eq!(peaks.floor(&Work::products(1_000_000, 1, Compute::Bf16)), 2e6 / 4e9);
    assert_eq!(peaks.floor(&Work::products(1_000_000, 1, Compute::F32)), 2e6 / 2e9);
    assert_eq!(Peaks::default().floor(&Work::pass(5, 5)), 0.0, "no peak, no floor");
    assert_eq!([Peaks::default(), peaks].map(|peaks| peaks.memory()), ["not measured", "1.00 PB/s"]);
}

#[test]
fn the_json_comes_back_and_keeps_its_keys() {
    let p = small();
    let json = serde_json::to_value(&p).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    let expected = [
        "gently",
        "name",
        "model",
        "processor",
        "machine",
        "peaks",
        "first_step",
        "steps",
        "tokens_per_step",
        "step_seconds",
        "phases",
        "calls",
        "lost",
        "timeline",
    ];
    assert_eq!(keys, expected);
    let row: Vec<&String> = json["calls"][0].as_object().unwrap().keys().collect();
    let expected = [
        "phase",
        "pass",
        "layer",
        "part",
        "op",
        "detail",
        "kernel",
        "count",
        "seconds",
        "flops",
        "bytes",
        "floor_seconds",
        "roofline",
    ];
    assert_eq!(row, expected);
    let back: Profile = serde_json::from_value(json).unwrap();
    assert_eq!(back, p);
}

#[test]
fn the_table_and_the_page_say_everything_and_pass_nothing_through() {
    let p = small();
    let table = p.table();
    for word in ["linear dw (gemm)", "backward", "all kernels", "outside of kernels", "roofline"] {
        assert!(table.contains(word), "{word} in\n{table}");
    }
    assert!(!table.contains("was full"));
    let full = Profile { lost: 7, ..p.clone() }.table();
    assert!(full.contains("the recording was full: of updates 4 to 5 it has all calls"), "{full}");
    let page = p.html();
    assert!(!page.contains("<up>") && !page.contains("<b>"), "names are escaped, in the data too");
    assert!(page.contains("\\u003cup>") && page.contains("&lt;up&gt;"));
    assert!(!page.contains("http://") && !page.contains("https://"), "nothing from elsewhere");
    assert!(page.contains("<canvas id=\"timeline\""));
    assert_eq!(p.timeline.calls.len() as u64, p.calls.iter().map(|c| c.count).sum::<u64>());
    let (op, part, pass, ..) = p.timeline.calls[0];
    assert_eq!([op, part, pass].map(|i| p.timeline.names[i].as_str()), ["linear (gemm)", "blocks.0.<up>", "forward"]);
}
