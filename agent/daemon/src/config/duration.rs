//! Durations on the command line: `500ms`, `30s`, `5m`, `24h`, `7d`.

use std::time::Duration;

/// Parses a whole number and its unit.
///
/// # Errors
/// Anything else; the text names what is allowed.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration: a whole number and ms, s, m, h or d, as in 500ms, 30s, 5m");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wrong)
}

/// A duration for people, in its largest whole unit: `5m`, `36h`, `1500ms`.
pub fn format(duration: Duration) -> String {
    let ms = duration.as_millis() as u64;
    let fits = |unit: u64| ms != 0 && ms.is_multiple_of(unit);
    match () {
        () if fits(86_400_000) => format!("{}d", ms / 86_400_000),
        () if fits(3_600_000) => format!("{}h", ms / 3_600_000),
        () if fits(60_000) => format!("{}m", ms / 60_000),
        () if fits(1_000) => format!("{}s", ms / 1_000),
        () => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_printed() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("25h", 90_000_000), ("7d", 604_800_000)] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse(text), Ok(duration));
            assert_eq!(format(duration), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "s", "-5s", "1.5h", "5 m", "5min", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
