//! Kubernetes quantities: the API server writes `1000m` as `1`, and that is no difference.

/// Suffixes, the longer ones first where one ends like another.
const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// Are both quantities, and of the same size?
pub fn same(one: &str, other: &str) -> bool {
    match (number(one), number(other)) {
        // A thousandth is not exact in binary.
        (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 1e-12,
        _ => false,
    }
}

/// The whole number of bytes that a quantity says.
pub fn bytes(text: &str) -> Option<u64> {
    let number = number(text).filter(|number| number.is_finite() && *number >= 0.0 && *number < 9e15)?;
    // Far below 2^53, so it is exact, and the cast cannot saturate.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(number.floor() as u64)
}

fn number(text: &str) -> Option<f64> {
    let suffix = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (digits, factor) = suffix.unwrap_or((text, 1.0));
    // Words such as `inf` are numbers to Rust, and none here.
    let is_number = digits.ends_with(|last: char| last.is_ascii_digit() || last == '.');
    digits.parse::<f64>().ok().filter(|_| is_number).map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_bytes() {
        for (text, wanted) in
            [("10Gi", Some(10 << 30)), ("1k", Some(1000)), ("12345", Some(12345)), ("-1", None), ("x", None)]
        {
            assert_eq!(bytes(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_same_in_other_words() {
        for (one, other) in
            [("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1e3", "1k"), ("0", "0m"), ("100m", "0.1")]
        {
            assert!(same(one, other), "{one} {other}");
        }
        for (one, other) in
            [("1", "2"), ("1M", "1Mi"), ("1", "one"), ("inf", "inf"), ("", ""), ("m", "m"), ("999m", "1")]
        {
            assert!(!same(one, other), "{one} {other}");
        }
    }
}
