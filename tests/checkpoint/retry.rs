//! What servers ask for with Retry-After.

use bise::checkpoint::retry::retry_after_ms;

use crate::script::date_ms;

/// Sun, 06 Nov 1994 08:49:37 GMT, in milliseconds since 1970.
const RFC_EXAMPLE_MS: u64 = 784_111_777_000;

#[test]
fn seconds_and_dates() {
    let now = RFC_EXAMPLE_MS - 2500;
    for (value, expected) in [
        ("0", Some(0)),
        ("120", Some(120_000)),
        (" 7 ", Some(7000)),
        ("18446744073709551615", Some(u64::MAX)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(2500)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", Some(2500)),
        ("Sun Nov  6 08:49:37 1994", Some(2500)),
        ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0)),
        ("Fri, 01 Jan 1960 00:00:00 GMT", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
    ] {
        assert_eq!(retry_after_ms(value, now, &date_ms), expected, "{value:?}");
    }
}
