//! Copies between strided views and contiguous buffers.

use super::View;
use super::strided::Walk;
use crate::pool::Disjoint;
use crate::real::Real;

/// `out = view`, made contiguous in row-major order.
///
/// # Panics
/// When the view leaves its data or `out` has another length than the shape.
pub fn copy_strided<T: Copy + Send + Sync>(shape: &[usize], view: View<'_, T>, out: &mut [T]) {
    let walk = Walk::new(shape, [view.strides]);
    assert_eq!(out.len(), walk.len(), "elementwise: output and shape {shape:?}");
    assert!(walk.extent(0) <= view.data.len(), "elementwise: view leaves its data");
    let stride = walk.inner(0);
    let shared = Disjoint::new(out);
    walk.runs(|first, [at], len| {
        // SAFETY: runs are disjoint parts of the output.
        let out = unsafe { shared.part(first, len) };
        if stride == 1 {
            out.copy_from_slice(&view.data[at..][..len]);
        } else {
            for (i, o) in out.iter_mut().enumerate() {
                *o = view.data[at + i * stride];
            }
        }
    });
}

/// Writes the contiguous `src` of `shape` to the strided places of `out`; other places are kept.
///
/// # Panics
/// When two elements would share a place (a stride of 0), when the view leaves `out`, or lengths disagree.
pub fn assign_strided<T: Copy + Send + Sync>(shape: &[usize], src: &[T], out: &mut [T], strides: &[usize]) {
    scatter(shape, src, out, strides, |o, s| *o = s);
}

/// Adds the contiguous `src` of `shape` to the strided places of `out`.
///
/// # Panics
/// As [`assign_strided`].
pub fn add_strided<T: Real>(shape: &[usize], src: &[T], out: &mut [T], strides: &[usize]) {
    scatter(shape, src, out, strides, |o, s| *o += s);
}

fn scatter<T: Copy + Send + Sync>(
    shape: &[usize],
    src: &[T],
    out: &mut [T],
    strides: &[usize],
    put: impl Fn(&mut T, T) + Sync,
) {
    let walk = Walk::new(shape, [strides]);
    assert_eq!(src.len(), walk.len(), "elementwise: source and shape {shape:?}");
    assert!(walk.extent(0) <= out.len(), "elementwise: destination leaves its data");
    let (axes, [steps]) = walk.axes();
    // Distinct places: sorted by stride, each axis steps over all that the smaller ones reach.
    let mut order: Vec<usize> = (0..axes.len()).filter(|&a| axes[a] > 1).collect();
    order.sort_by_key(|&a| steps[a]);
    let mut reach = 0;
    for a in order {
        assert!(steps[a] > reach, "elementwise: two elements of the destination share a place");
        reach += (axes[a] - 1) * steps[a];
    }
    let stride = walk.inner(0);
    let shared = Disjoint::new(out);
    walk.runs(|first, [at], len| {
        let src = &src[first..][..len];
        // SAFETY: places are inside `out` and distinct (checked above), so no two tasks meet; when the
        // stride is not 1, the parts are single elements.
        unsafe {
            if stride == 1 {
                for (o, &s) in shared.part(at, len).iter_mut().zip(src) {
                    put(o, s);
                }
            } else {
                for (i, &s) in src.iter().enumerate() {
                    put(&mut shared.part(at + i * stride, 1)[0], s);
                }
            }
        }
    });
}
