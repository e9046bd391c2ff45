//! Figures for people.

/// `20,000`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits and a decimal unit: `200 MB`, `1.05 GB`, `832 B`.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 must not be written as 1,000.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{} {}", figures(value, unit > 0), units[unit])
}

/// `12.3 s`, `340 ms`, `1.20 ms`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds >= 0.9995 {
        format!("{} s", figures(seconds, true))
    } else {
        format!("{} ms", figures(seconds * 1e3, true))
    }
}

/// Three digits.
fn figures(value: f64, fractions: bool) -> String {
    let decimals = match value {
        _ if !fractions => 0,
        small if small < 9.995 => 2,
        middle if middle < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') && text.ends_with(".00") { text.trim_end_matches(".00").to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!((count(7), count(20_000), count(1_234_567)), ("7".into(), "20,000".into(), "1,234,567".into()));
        assert_eq!(
            (bytes(832), bytes(200_000_000), bytes(1_050_000_000)),
            ("832 B".into(), "200 MB".into(), "1.05 GB".into())
        );
        assert_eq!((bytes(999_600), bytes(5_000_000)), ("1 MB".into(), "5 MB".into()));
        assert_eq!(
            (seconds(12.34), seconds(0.34), seconds(0.0012)),
            ("12.3 s".into(), "340 ms".into(), "1.20 ms".into())
        );
        assert_eq!((seconds(0.9999), seconds(123.4)), ("1 s".into(), "123 s".into()));
    }
}
