//! `strftime` of a moment in UTC, as Python has it on Linux in the C locale.

use super::refused;
use minijinja::Error;
use std::time::SystemTime;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
/// Days of a common year before each month.
const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

/// The moment in a format's words: at most 12 bytes for each of the format's.
pub(crate) fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::at(since.as_secs(), since.subsec_micros()).said(format)
}

/// A moment by the calendar.
struct Moment {
    seconds: u64,
    micros: u32,
    year: u64,
    month: u64,
    day: u64,
    /// Day of the year, from 0.
    of_year: u64,
    /// Day of the week, from Sunday, 0.
    weekday: u64,
}

/// What a directive stands for.
enum Part {
    /// A number, how wide it is at least, and what fills it up.
    Number(u64, usize, char),
    Text(String),
}

impl Moment {
    fn at(seconds: u64, micros: u32) -> Self {
        let days = seconds / 86400;
        let (year, month, day) = civil(days);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let of_year = BEFORE[month as usize - 1] + day - 1 + u64::from(is_leap && month > 2);
        Self { seconds, micros, year, month, day, of_year, weekday: (days + 4) % 7 }
    }

    fn said(&self, format: &str) -> Result<String, Error> {
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            // Flags of the C library: no filling, spaces, zeros, capitals.
            let (mut fill, mut capitals) = (None, false);
            let mut directive = rest.next();
            while let Some(flag @ ('-' | '_' | '0' | '^')) = directive {
                match flag {
                    '^' => capitals = true,
                    flag => fill = Some(flag),
                }
                directive = rest.next();
            }
            let said = match self.part(directive)? {
                Part::Text(text) => text,
                Part::Number(n, width, usual) => match fill.unwrap_or(usual) {
                    '-' => n.to_string(),
                    '0' => format!("{n:0width$}"),
                    _ => format!("{n:width$}"),
                },
            };
            out.push_str(&if capitals { said.to_uppercase() } else { said });
        }
        Ok(out)
    }

    fn part(&self, directive: Option<char>) -> Result<Part, Error> {
        let time = self.seconds % 86400;
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        let (month, day) = (MONTHS[self.month as usize - 1], DAYS[self.weekday as usize]);
        let from_monday = (self.weekday + 6) % 7;
        // The week of the ISO calendar is that of its Thursday.
        let thursday = Self::civil_of_day(self.seconds / 86400 + 3 - from_monday);
        let number = |n, width| Part::Number(n, width, '0');
        let spaced = |n| Part::Number(n, 2, ' ');
        let text = |text: &str| Part::Text(text.to_owned());
        Ok(match directive {
            Some('Y') => number(self.year, 4),
            Some('C') => number(self.year / 100, 2),
            Some('y') => number(self.year % 100, 2),
            Some('m') => number(self.month, 2),
            Some('d') => number(self.day, 2),
            Some('e') => spaced(self.day),
            Some('j') => number(self.of_year + 1, 3),
            Some('H') => number(hour, 2),
            Some('k') => spaced(hour),
            Some('I') => number((hour + 11) % 12 + 1, 2),
            Some('l') => spaced((hour + 11) % 12 + 1),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('f') => number(self.micros.into(), 6),
            Some('s') => number(self.seconds, 1),
            Some('w') => number(self.weekday, 1),
            Some('u') => number(from_monday + 1, 1),
            Some('U') => number((self.of_year + 7 - self.weekday) / 7, 2),
            Some('W') => number((self.of_year + 7 - from_monday) / 7, 2),
            Some('G') => number(thursday.year, 4),
            Some('g') => number(thursday.year % 100, 2),
            Some('V') => number(thursday.of_year / 7 + 1, 2),
            Some('B') => text(month),
            Some('b' | 'h') => text(&month[..3]),
            Some('A') => text(day),
            Some('a') => text(&day[..3]),
            Some('p') => text(if hour < 12 { "AM" } else { "PM" }),
            Some('P') => text(if hour < 12 { "am" } else { "pm" }),
            Some('D' | 'x') => Part::Text(self.said("%m/%d/%y")?),
            Some('F') => Part::Text(self.said("%Y-%m-%d")?),
            Some('R') => Part::Text(self.said("%H:%M")?),
            Some('T' | 'X') => Part::Text(self.said("%H:%M:%S")?),
            Some('r') => Part::Text(self.said("%I:%M:%S %p")?),
            Some('c') => Part::Text(self.said("%a %b %e %H:%M:%S %Y")?),
            Some('n') => text("\n"),
            Some('t') => text("\t"),
            // The zone of a moment that has none.
            Some('z' | 'Z') => text(""),
            Some('%') => text("%"),
            other => {
                let directive = other.map(String::from).unwrap_or_default();
                return Err(refused(format!("strftime_now does not know %{directive}")));
            }
        })
    }

    /// The beginning of a day since 1970.
    fn civil_of_day(day: u64) -> Self {
        Self::at(day * 86400, 0)
    }
}

/// Year, month and day of a day since 1970 (Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, micros: u64, format: &str) -> String {
        strftime(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros), format).unwrap()
    }

    #[test]
    fn dates_of_the_calendar() {
        assert_eq!(at(0, 0, "%A %d %b %Y %H:%M:%S"), "Thursday 01 Jan 1970 00:00:00");
        assert_eq!(at(951_782_400, 0, "%Y-%m-%d %a"), "2000-02-29 Tue");
        assert_eq!(at(1_735_689_599, 0, "%e. %B %y, %I:%M %p %%"), "31. December 24, 11:59 PM %");
        assert!(strftime(SystemTime::UNIX_EPOCH, "%Q").is_err());
        assert!(strftime(SystemTime::UNIX_EPOCH, "%-").is_err());
    }

    #[test]
    fn directives_are_pythons() {
        // Printed by Python on Linux, in UTC.
        let all = "%C|%y|%e|%j|%k|%I|%l|%f|%w|%u|%U|%W|%G|%g|%V|%h|%P|%D|%x|%F|%R|%T|%X|%r|%c|%n|%t|%z|%Z|%-d|%-m|%_d|%0e|%-I|%-j|%^a|%_H|%s";
        for (seconds, micros, text) in [
            (
                0,
                0,
                "19|70| 1|001| 0|12|12|000000|4|4|00|00|1970|70|01|Jan|am|01/01/70|01/01/70|1970-01-01|00:00|00:00:00|00:00:00|\
                12:00:00 AM|Thu Jan  1 00:00:00 1970|\n|\t|||1|1| 1|01|12|1|THU| 0|0",
            ),
            (
                951_782_400,
                5,
                "20|00|29|060| 0|12|12|000005|2|2|09|09|2000|00|09|Feb|am|02/29/00|02/29/00|2000-02-29|00:00|00:00:00|00:00:00|\
                12:00:00 AM|Tue Feb 29 00:00:00 2000|\n|\t|||29|2|29|29|12|60|TUE| 0|951782400",
            ),
            (
                1_735_689_599,
                999_999,
                "20|24|31|366|23|11|11|999999|2|2|52|53|2025|25|01|Dec|pm|12/31/24|12/31/24|2024-12-31|23:59|23:59:59|23:59:59|\
                11:59:59 PM|Tue Dec 31 23:59:59 2024|\n|\t|||31|12|31|31|11|366|TUE|23|1735689599",
            ),
            (
                1_609_459_200,
                120,
                "20|21| 1|001| 0|12|12|000120|5|5|00|00|2020|20|53|Jan|am|01/01/21|01/01/21|2021-01-01|00:00|00:00:00|00:00:00|\
                12:00:00 AM|Fri Jan  1 00:00:00 2021|\n|\t|||1|1| 1|01|12|1|FRI| 0|1609459200",
            ),
            (
                1_483_228_800,
                0,
                "20|17| 1|001| 0|12|12|000000|0|7|01|00|2016|16|52|Jan|am|01/01/17|01/01/17|2017-01-01|00:00|00:00:00|00:00:00|\
                12:00:00 AM|Sun Jan  1 00:00:00 2017|\n|\t|||1|1| 1|01|12|1|SUN| 0|1483228800",
            ),
        ] {
            assert_eq!(at(seconds, micros, all), text, "{seconds}");
        }
    }
}
