//! Whether the broker takes a cron pattern (pure): the grammar of nats-server (server/cron.go), which has a field for
//! seconds before the five of cron.

/// The fields: their names, the least and the greatest number.
const FIELDS: [(&str, u8, u8); 6] = [
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 6),
];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The pattern in the broker's form, with a field for seconds.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn pattern(cron: &str) -> Result<String, String> {
    let mut fields: Vec<&str> = cron.split_whitespace().collect();
    if fields.len() == FIELDS.len() - 1 {
        fields.insert(0, "0");
    }
    if fields.len() != FIELDS.len() {
        return Err(
            "must have five fields (minute hour day-of-month month day-of-week) or six (second first)".to_owned()
        );
    }
    for (field, (name, least, most)) in fields.iter().zip(FIELDS) {
        let names: &[&str] = match name {
            "month" => &MONTHS,
            "day of week" => &DAYS,
            _ => &[],
        };
        if !field.split(',').all(|part| is_part(part, names, least, most)) {
            return Err(format!(
                "{field:?} cannot be the {name}: write *, a number from {least} to {most}, a range such as {least}-{most}, a step such as */2, or a list of these"
            ));
        }
    }
    Ok(fields.join(" "))
}

/// `*`, a number or a range, and perhaps a step.
fn is_part(part: &str, names: &[&str], least: u8, most: u8) -> bool {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|step| matches!(number(step), None | Some(0))) {
        return false;
    }
    if range == "*" || range == "?" {
        return true;
    }
    let value = |text: &str| {
        let named = || names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(|at| at + usize::from(least));
        let value = number(text).map(usize::from).or_else(named)?;
        (usize::from(least)..=usize::from(most)).contains(&value).then_some(value)
    };
    match range.split_once('-') {
        None => value(range).is_some(),
        Some((from, to)) => value(from).zip(value(to)).is_some_and(|(from, to)| from <= to),
    }
}

/// A number of one to three digits.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_fields_have_no_seconds() {
        for (cron, expected) in [
            ("0 2 * * *", "0 0 2 * * *"),
            ("*/15 9-17 ? jan-MAR mon,3", "0 */15 9-17 ? jan-MAR mon,3"),
            ("*/10 * * * * *", "*/10 * * * * *"),
            ("  5   4 1,15 * 0-6/2 ", "0 5 4 1,15 * 0-6/2"),
        ] {
            assert_eq!(pattern(cron).as_deref(), Ok(expected), "{cron}");
        }
    }

    #[test]
    fn what_the_broker_would_refuse_is_named() {
        for (cron, words) in [
            ("", "five fields"),
            ("@daily", "five fields"),
            ("* * * *", "five fields"),
            ("* * * * * * *", "five fields"),
            ("60 * * * *", "\"60\" cannot be the minute: write *, a number from 0 to 59"),
            ("* 24 * * *", "cannot be the hour"),
            ("* * 0 * *", "cannot be the day of month"),
            ("* * * 13 *", "cannot be the month"),
            ("* * * * 7", "cannot be the day of week"),
            ("* * * * sunday", "cannot be the day of week"),
            ("61 * * * * *", "cannot be the second"),
            ("5-1 * * * *", "cannot be the minute"),
            ("*/0 * * * *", "cannot be the minute"),
            ("*/ * * * *", "cannot be the minute"),
            ("1,,2 * * * *", "cannot be the minute"),
            ("1-2-3 * * * *", "cannot be the minute"),
            ("-1 * * * *", "cannot be the minute"),
            ("1/2/3 * * * *", "cannot be the minute"),
            ("* * L * *", "cannot be the day of month"),
        ] {
            let error = pattern(cron).unwrap_err();
            assert!(error.contains(words), "{cron}: {error}");
        }
    }
}
