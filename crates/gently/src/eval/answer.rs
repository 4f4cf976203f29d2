//! Answers that were written: filters, and whether they are the expected ones.
//!
//! Here: the filters and the `exact_match` of lm-evaluation-harness. Not here: writing the answers.

use fancy_regex::Regex;

/// What an answer goes through before it is compared.
#[derive(Debug, Clone)]
pub enum Filter {
    /// The part that a pattern finds.
    Regex {
        /// The pattern; of its groups the first that is not empty, without groups the whole match.
        pattern: Regex,
        /// Which match, from 0; negative: from the end.
        select: i64,
        /// The answer where there is no such match.
        fallback: String,
    },
    /// White space at both ends goes away.
    RemoveWhitespace,
    /// All letters small.
    Lowercase,
    /// All letters large.
    Uppercase,
}

/// Filters in a row, under a name.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// What its figures are called by.
    pub name: String,
    /// The filters.
    pub filters: Vec<Filter>,
}

impl Filter {
    /// The filtered answer.
    ///
    /// # Errors
    /// What the pattern's engine says when it gives up.
    pub fn apply(&self, answer: &str) -> Result<String, String> {
        let (pattern, select, fallback) = match self {
            Self::RemoveWhitespace => return Ok(answer.trim().to_owned()),
            Self::Lowercase => return Ok(answer.to_lowercase()),
            Self::Uppercase => return Ok(answer.to_uppercase()),
            Self::Regex { pattern, select, fallback } => (pattern, *select, fallback),
        };
        let mut found = Vec::new();
        for captures in pattern.captures_iter(answer) {
            let captures = captures.map_err(|e| e.to_string())?;
            let part = match captures.len() {
                1 => captures.get(0),
                2 => captures.get(1),
                n => (1..n).filter_map(|i| captures.get(i)).find(|m| !m.as_str().is_empty()),
            };
            // Several groups, all empty: no answer. One empty group is an empty answer.
            found.push(match (part, captures.len()) {
                (Some(part), _) => Some(part.as_str().to_owned()),
                (None, 2) => Some(String::new()),
                (None, _) => None,
            });
        }
        let at = if select < 0 { found.len() as i64 + select } else { select };
        let chosen = usize::try_from(at).ok().and_then(|at| found.get(at).cloned().flatten());
        Ok(chosen.map_or_else(|| fallback.clone(), |s| s.trim().to_owned()))
    }
}

impl Pipeline {
    /// The answer after all filters.
    ///
    /// # Errors
    /// As [`Filter::apply`].
    pub fn apply(&self, answer: &str) -> Result<String, String> {
        self.filters.iter().try_fold(answer.to_owned(), |answer, filter| filter.apply(&answer))
    }
}

/// When an answer is the expected one.
#[derive(Debug, Clone, Default)]
pub struct ExactMatch {
    /// Parts that match these do not count.
    pub ignored: Vec<Regex>,
    /// Large letters are small ones.
    pub ignore_case: bool,
    /// The 32 signs of ASCII's punctuation do not count.
    pub ignore_punctuation: bool,
    /// The digits 0 to 9 do not count.
    pub ignore_numbers: bool,
}

impl ExactMatch {
    /// Whether `answer` is one of `targets`.
    ///
    /// # Errors
    /// What a pattern's engine says when it gives up.
    pub fn is_right(&self, answer: &str, targets: &[String]) -> Result<bool, String> {
        let answer = self.plain(answer)?;
        for target in targets {
            if self.plain(target)? == answer {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn plain(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        for pattern in &self.ignored {
            text = pattern.try_replacen(&text, 0, "").map_err(|e| e.to_string())?.into_owned();
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        text.retain(|c| {
            !(self.ignore_punctuation && c.is_ascii_punctuation() || self.ignore_numbers && c.is_ascii_digit())
        });
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str, select: i64) -> Filter {
        Filter::Regex { pattern: Regex::new(pattern).unwrap(), select, fallback: "[invalid]".into() }
    }

    #[test]
    fn patterns_find_what_pythons_findall_finds() {
        let text = "First 12, then $3.50.\n#### 1,204 ";
        for (pattern, select, expected) in [
            (r"#### (\-?[0-9\.\,]+)", 0, "1,204"),
            (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1, "1,204"),
            (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", 0, "12,"),
            (r"[0-9]+", 1, "3"),
            (r"[0-9]+", 9, "[invalid]"),
            (r"[0-9]+", -9, "[invalid]"),
            (r"none", 0, "[invalid]"),
            (r"First(x?)", 0, ""),
            (r"First(x?)(y?)", 0, "[invalid]"),
            (r"(?<=then )\S+", 0, "$3.50."),
        ] {
            assert_eq!(regex(pattern, select).apply(text).unwrap(), expected, "{pattern} {select}");
        }
        let both = Pipeline { name: "x".into(), filters: vec![regex("A.*", 0), Filter::Lowercase] };
        assert_eq!(both.apply("  Say Aha ").unwrap(), "aha");
        assert_eq!(Filter::RemoveWhitespace.apply(" a b\n").unwrap(), "a b");
    }

    #[test]
    fn a_pattern_that_never_ends_is_an_error() {
        let e = regex(r"(x+x+)+(?=y)z", 0).apply(&"x".repeat(4000)).unwrap_err();
        assert!(e.to_lowercase().contains("backtrack"), "{e}");
    }

    #[test]
    fn matches_ignore_what_they_are_told_to() {
        let targets = ["Paris, 1".to_owned()];
        let right = |m: &ExactMatch, answer: &str| m.is_right(answer, &targets).unwrap();
        let mut exact = ExactMatch::default();
        assert!(right(&exact, "Paris, 1") && !right(&exact, "paris, 1") && !right(&exact, "Paris, 1 "));
        exact.ignore_case = true;
        assert!(right(&exact, "PARIS, 1") && !right(&exact, "paris 1"));
        exact.ignore_punctuation = true;
        assert!(right(&exact, "(paris) 1!") && !right(&exact, "paris "));
        exact.ignore_numbers = true;
        assert!(right(&exact, "paris 27"));
        exact.ignored = vec![Regex::new(r"(?s).*#### ").unwrap(), Regex::new(r"\s").unwrap()];
        assert!(right(&exact, "some\nthought #### Paris"));
    }
}
