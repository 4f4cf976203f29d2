//! The frame of every page: head, style, policy.
//!
//! A page has everything inside. Every text that did not come from this program goes through [`escape`]; the page's own policy
//! also forbids anything from elsewhere, and scripts where there are none, so a sample cannot do harm even if that were missed.
//!
//! ```
//! use gently_train::watch::report::document::{escape, page};
//! let html = page("a <run>", "", false, &format!("<p>{}</p>", escape("1 < 2")));
//! assert!(html.contains("<title>a &lt;run&gt; · Gently</title>") && html.contains("1 &lt; 2"));
//! ```

use crate::watch::format;

const STYLE: &str = include_str!("style.css");

/// `text` with the five characters that mean something in HTML replaced, and control characters shown
/// as dots.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in format::printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A whole page around `body`, in the style of the report with `more_style` added. `scripts` allows scripts inside the body.
pub fn page(title: &str, more_style: &str, scripts: bool, body: &str) -> String {
    let policy = if scripts { "; script-src 'unsafe-inline'" } else { "" };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{} · Gently</title>\n<style>\n{STYLE}{more_style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(title)
    )
}
