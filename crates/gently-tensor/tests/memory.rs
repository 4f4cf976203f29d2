//! A tensor that the system has no memory for is an error, and the pool's accounts are what they were before. Alone in
//! its process, because the accounts are the process's.

use gently_tensor::*;

#[test]
fn what_no_machine_has_is_refused_and_leaves_no_trace() {
    let held = Tensor::zeros([1000, 1000], DType::F32, &Device::Cpu).unwrap();
    drop(Tensor::zeros([500], DType::F32, &Device::Cpu).unwrap());
    let before = memory::stats(Device::Cpu);
    let refused = Tensor::zeros([1 << 23, 1 << 23], DType::F32, &Device::Cpu).unwrap_err();
    let shape = Box::new(Shape::new(&[1 << 23, 1 << 23]).unwrap());
    assert_eq!(refused, Error::OutOfMemory { op: "zeros", shape, dtype: DType::F32, bytes: 1 << 48 });
    assert_eq!(
        refused.to_string(),
        "zeros: there is no memory for the 262144.0 GiB of a f32 tensor [8388608, 8388608]"
    );
    assert!(refused.is_out_of_memory() && refused.hint().is_some());
    // The free lists were given back before giving up; nothing else has changed.
    let after = memory::stats(Device::Cpu);
    assert_eq!(after, memory::Stats { held: before.live, ..before });
    assert_eq!(held.sum_all().unwrap().item::<f32>().unwrap(), 0.0);

    // On Meta sizes only add up, but not to more than any machine has.
    let large: Vec<_> = (0..40).map(|_| Tensor::zeros([1 << 29, 1 << 29], DType::F64, &Device::Meta)).collect();
    let error = large.iter().find_map(|tensor| tensor.as_ref().err()).unwrap();
    assert!(error.is_out_of_memory(), "{error}");

    // What is only looked at enters no account, dies where it may, and may be no larger.
    drop(large);
    let before = memory::stats(Device::Meta);
    let shape = memory::uncounted(|| Tensor::zeros([1 << 20], DType::F32, &Device::Meta)).unwrap();
    assert_eq!((memory::stats(Device::Meta), shape.dims()), (before, &[1usize << 20][..]));
    drop(shape);
    assert_eq!(memory::stats(Device::Meta), before);
    let vast = memory::uncounted(|| Tensor::zeros([1 << 30, 1 << 28], DType::F64, &Device::Meta));
    assert!(vast.unwrap_err().is_out_of_memory());
}
