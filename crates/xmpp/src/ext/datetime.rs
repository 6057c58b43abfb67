//! XEP-0082 v1.1.1: XMPP Date and Time Profiles, the DateTime profile (§3.2) only.
//!
//! Moments are Unix milliseconds. Left out: the Date and Time profiles, years beyond four digits
//! and before year 0, and leap seconds (XML Schema has none).

const DAY_MS: i64 = 86_400_000;

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_FROM_MARCH_0: i64 = 719_468;

/// Days in 400 years.
const ERA_DAYS: i64 = 146_097;

/// The first moment that can be written: 0000-01-01T00:00:00Z.
pub const MIN_MS: i64 = -62_167_219_200_000;

/// The last moment that can be written: 9999-12-31T23:59:59.999Z.
pub const MAX_MS: i64 = 253_402_300_799_999;

/// Parses `CCYY-MM-DDThh:mm:ss[.sss]TZD`; a fraction is cut to three digits.
pub fn parse(text: &str) -> Option<i64> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let bytes = date_time.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes[*at] != *byte) {
        return None;
    }
    let number = |from: usize, to: usize| digits(date_time.get(from..to)?);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let (millis, zone) = fraction(rest)?;
    // In XML Schema a day may end with 24:00:00.
    let end_of_day = hour == 24 && minute == 0 && second == 0 && millis == 0;
    if (hour > 23 && !end_of_day) || minute > 59 || second > 59 {
        return None;
    }
    let seconds = (hour * 60 + minute - offset_minutes(zone)?) * 60 + second;
    Some(days_from_date(year, month, day) * DAY_MS + seconds * 1000 + millis)
}

/// Writes a moment in UTC; a fraction of zero is left out. A moment beyond [`MIN_MS`] or [`MAX_MS`]
/// is written as that limit.
pub fn format(ms: i64) -> String {
    let ms = ms.clamp(MIN_MS, MAX_MS);
    let (year, month, day) = date_from_days(ms.div_euclid(DAY_MS));
    let in_day = ms.rem_euclid(DAY_MS);
    let (seconds, millis) = (in_day / 1000, in_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if millis != 0 {
        text.push_str(&format!(".{millis:03}"));
    }
    text.push('Z');
    text
}

/// Splits off `.sss`: milliseconds, and the rest.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(text) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, zone) = text.split_at_checked(len)?;
    if fraction.is_empty() {
        return None;
    }
    let millis = fraction
        .bytes()
        .chain([b'0', b'0'])
        .take(3)
        .fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    Some((millis, zone))
}

/// `Z` or `±hh:mm`, at most 14 hours as in XML Schema.
fn offset_minutes(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    let total = hours * 60 + minutes;
    (minutes <= 59 && total <= 14 * 60).then_some(sign * total)
}

fn digits(text: &str) -> Option<i64> {
    text.bytes().try_fold(0, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + i64::from(byte - b'0'))
    })
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days before a month, in a year that begins in March (month 0), so that the leap day is last.
fn days_before_month(march_month: i64) -> i64 {
    (153 * march_month + 2) / 5
}

fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let march_month = (month + 9) % 12;
    let march_year = year - i64::from(month <= 2);
    let leap_days =
        march_year.div_euclid(4) - march_year.div_euclid(100) + march_year.div_euclid(400);
    march_year * 365 + leap_days + days_before_month(march_month) + day - 1 - EPOCH_FROM_MARCH_0
}

fn date_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_FROM_MARCH_0;
    let (era, in_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    // 1460, 36524 and 146096 are the days at which 4, 100 and 400 years end, less one.
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * in_year + 2) / 153;
    let day = in_year - days_before_month(march_month) + 1;
    let month = (march_month + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// §3.2: the same moment in two zones.
    #[test]
    fn examples() {
        let moon = parse("1969-07-21T02:56:15Z");
        assert_eq!(moon, Some(-14_159_025_000));
        assert_eq!(parse("1969-07-20T21:56:15-05:00"), moon);
        assert_eq!(format(-14_159_025_000), "1969-07-21T02:56:15Z");
    }

    #[test]
    fn known_moments() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.001Z", 1),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600_000),
            ("2001-09-09T01:46:40Z", 1_000_000_000_000),
            ("2024-02-29T23:59:59.250Z", 1_709_251_199_250),
            ("2024-03-01T00:00:00Z", 1_709_251_200_000),
            ("2038-01-19T03:14:08Z", 2_147_483_648_000),
            ("0000-01-01T00:00:00Z", MIN_MS),
            ("9999-12-31T23:59:59.999Z", MAX_MS),
        ] {
            assert_eq!(parse(text), Some(ms), "{text}");
            assert_eq!(format(ms), text);
        }
        assert_eq!(format(i64::MIN), format(MIN_MS));
        assert_eq!(format(i64::MAX), format(MAX_MS));
    }

    #[test]
    fn other_ways_to_write() {
        let at = parse("2024-02-29T00:00:00Z");
        for same in [
            "2024-02-28T24:00:00Z",
            "2024-02-29T00:00:00.0Z",
            "2024-02-29T00:00:00.0009Z",
            "2024-02-29T00:00:00+00:00",
            "2024-02-29T00:00:00-00:00",
            "2024-02-29T14:00:00+14:00",
            "2024-02-28T23:30:00-00:30",
        ] {
            assert_eq!(parse(same), at, "{same}");
        }
        assert_eq!(parse("1970-01-01T00:00:00.5Z"), Some(500));
        assert_eq!(
            parse("1970-01-01T00:00:00.123999999999999999999999Z"),
            Some(123)
        );
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "2024-02-29",
            "2024-02-29T00:00:00",
            "2024-02-29 00:00:00Z",
            "2024-02-29T00:00:00z",
            "2024-02-29T00:00:00.Z",
            "2024-02-29T00:00:00ZZ",
            "2024-02-29T00:00:00+1:00",
            "2024-02-29T00:00:00+01:60",
            "2024-02-29T00:00:00+14:01",
            "2024-02-29T00:00:00+0100",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-02-30T00:00:00Z",
            "2024-04-31T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:01Z",
            "2024-01-01T25:00:00Z",
            "2024-01-01T00:60:00Z",
            "2016-12-31T23:59:60Z",
            "+024-01-01T00:00:00Z",
            "-2024-01-01T00:00:00Z",
            "12024-01-01T00:00:00Z",
            "20020910T23:08:25",
            "2024-01-01T00:00:0üZ",
            "ü024-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    /// Every day of 800 years follows the day before, compared with a calendar that counts days.
    #[test]
    fn every_day() {
        let (mut year, mut month, mut day) = (1600, 1, 1);
        for days in days_from_date(1600, 1, 1)..days_from_date(2400, 1, 1) {
            assert_eq!(date_from_days(days), (year, month, day));
            assert_eq!(days_from_date(year, month, day), days);
            day += 1;
            if day > days_in_month(year, month) {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
        assert_eq!((year, month, day), (2400, 1, 1));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ms in MIN_MS..=MAX_MS) {
            prop_assert_eq!(parse(&format(ms)), Some(ms));
        }

        #[test]
        fn never_panics(text in "[0-9T:.Z+ü-]{0,30}") {
            if let Some(ms) = parse(&text) {
                prop_assert!(((MIN_MS - DAY_MS)..=(MAX_MS + DAY_MS)).contains(&ms));
            }
        }
    }
}
