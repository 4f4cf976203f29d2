//! Templates that would make long lists of short ones end within their budget of memory. Alone in its process, because the
//! heap's account is the process's.

use gently_text::{ChatOptions, ChatTemplate, Error, Message, TemplateTokens};
use peak_alloc::PeakAlloc;

/// Counts what is allocated and not freed, to the byte.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What a rendering of nothing may take: 400,000 units of 64 bytes, twice while a list moves to a larger place.
const MOST: usize = 64 << 20;

fn render(source: &str) -> Result<String, Error> {
    let options = ChatOptions::default();
    ChatTemplate::new(source, TemplateTokens::new(), "x".as_ref())?.render(&[Message::user("a")], &options)
}

/// Changes `ns.x` again and again.
fn looped(first: &str, change: &str, times: u32) -> String {
    format!(
        "{{% set ns = namespace(x={first}) %}}{{% for i in range({times}) %}}{{% set ns.x = {change} %}}{{% endfor %}}{{{{ ns.x | length }}}}"
    )
}

#[test]
fn hostile_lists_take_little_memory() {
    let macros = "{% macro m(x, n) %}{% if n %}{{ m(x + x, n - 1) }}{% endif %}{% endmacro %}{{ m([1], 60) }}";
    let unrolled: String = (0..60).map(|i| format!("{{% set x{} = x{i} + x{i} %}}", i + 1)).collect();
    for source in [
        looped("[1]", "ns.x + ns.x", 60),
        looped("[1]", "ns.x * 1 + ns.x * 1", 60),
        looped("[1]", "ns.x[:] + ns.x[0:]", 60),
        looped("[1]", "[ns.x, ns.x] | sum(start=[])", 60),
        looped("[1]", "ns.x | chain(ns.x)", 60),
        looped("[1]", "ns.x + [ns.x] + ns.x", 60),
        looped("[1] * 1000000000000", "ns.x + [1]", 60),
        looped("range(99999)", "ns.x + range(99999)", 99999),
        looped("(1,)", "ns.x + ns.x", 60),
        format!("{{% set x0 = [1] %}}{unrolled}{{{{ x60 | length }}}}"),
        macros.into(),
    ] {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        let found = render(&source);
        let taken = HEAP.peak_usage() - before;
        assert!(matches!(found, Err(Error::Template { .. })), "{source}: {found:?}");
        assert!(taken < MOST, "{source}: {taken} bytes");
    }
}
