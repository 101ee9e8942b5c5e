//! What chat templates take from Python: `json.dumps`, `strftime`, `repr` of a
//! float and a few string methods.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Deeper data comes from no message; a template could build it to exhaust the stack.
const MAX_DEPTH: usize = 64;

/// `json.dumps` options, with the defaults that transformers gives them.
struct Dump {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

/// transformers' `tojson` filter.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = kwargs.get("indent")?;
    let indent = indent.filter(|v| !v.is_none() && !v.is_undefined()).map(|v| match v.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(v).unwrap_or(0).min(64)),
    });
    let separators: Option<Value> = kwargs.get("separators")?;
    let part = |at: usize, default: &str| -> Result<String, Error> {
        match separators.as_ref().filter(|s| !s.is_none()) {
            None => Ok(default.to_owned()),
            Some(pair) => Ok(pair.get_item_by_index(at)?.as_str().unwrap_or(default).to_owned()),
        }
    };
    let dump = Dump {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        // Python puts no space at the end of an indented line.
        item_separator: part(0, if indent.is_some() { "," } else { ", " })?,
        key_separator: part(1, ": ")?,
        indent,
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    dump.value(&mut out, value, 0)?;
    Ok(Value::from_safe_string(out))
}

impl Dump {
    fn value(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the data is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                self.container(out, ('[', ']'), depth, items, |dump, out, item| {
                    dump.value(out, &item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    let name = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                        ValueKind::None => "null".to_owned(),
                        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
                        ValueKind::Number => number(&key),
                        kind => return Err(not_json(kind)),
                    };
                    pairs.push((name, value.get_item(&key)?));
                }
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container(out, ('{', '}'), depth, pairs, |dump, out, (name, item)| {
                    dump.string(out, &name);
                    out.push_str(&dump.key_separator);
                    dump.value(out, &item, depth + 1)
                })?;
            }
            kind => return Err(not_json(kind)),
        }
        Ok(())
    }

    fn container<T>(
        &self,
        out: &mut String,
        (open, close): (char, char),
        depth: usize,
        items: Vec<T>,
        write: impl Fn(&Self, &mut String, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let empty = items.is_empty();
        out.push(open);
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item_separator);
            }
            self.newline(out, depth + 1);
            write(self, out, item)?;
        }
        if !empty {
            self.newline(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn newline(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ok = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn not_json(kind: ValueKind) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} is not JSON serializable"))
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) => repr(x),
        Err(_) => value.to_string(),
    }
}

/// Python's `repr` of a float, with json's names for what is not finite.
fn repr(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN"
        } else if x > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(e) if x != 0.0 && !(-4..16).contains(&e) => {
            let sign = if e < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", e.abs())
        }
        _ => format!("{x:?}"),
    }
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
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

/// Python's `strftime` of a time given in seconds since 1970, for the codes
/// that a date in a prompt needs: `%a %A %b %B %d %-d %e %F %H %I %j %m %-m %M
/// %p %S %T %y %Y %Z %%`. Another code is an error that names it.
pub(super) fn strftime(format: &str, unix_s: i64) -> Result<String, Error> {
    let (days, second) = (unix_s.div_euclid(86400), unix_s.rem_euclid(86400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let name = |names: &[&'static str], i: i64| {
        usize::try_from(i).ok().and_then(|i| names.get(i).copied()).unwrap_or_default()
    };
    let weekday = name(&DAYS, (days + 4).rem_euclid(7));
    let month_name = name(&MONTHS, month - 1);
    let short = |name: &str| name.chars().take(3).collect::<String>();

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let text = match chars.next() {
            Some('a') => short(weekday),
            Some('A') => weekday.to_owned(),
            Some('b' | 'h') => short(month_name),
            Some('B') => month_name.to_owned(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('j') => format!("{:03}", days - days_from_new_year(year) + 1),
            Some('m') => format!("{month:02}"),
            Some('M') => format!("{minute:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('S') => format!("{second:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('y') => format!("{:02}", year.rem_euclid(100)),
            Some('Y') => year.to_string(),
            // transformers formats a time without a zone.
            Some('Z') => String::new(),
            Some('%') => "%".to_owned(),
            Some('-') => match chars.next() {
                Some('d') => day.to_string(),
                Some('m') => month.to_string(),
                other => return Err(unknown_code(&format!("-{}", other.unwrap_or(' ')))),
            },
            other => return Err(unknown_code(&other.unwrap_or(' ').to_string())),
        };
        out.push_str(&text);
    }
    Ok(out)
}

fn unknown_code(code: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("strftime_now: %{code} is not supported"))
}

/// Year, month and day of a day number, 0 being 1970-01-01 (Howard Hinnant,
/// "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    // Any day of these 400-year eras fits; what lies beyond is no date of a chat.
    let z = days.clamp(-100_000_000, 100_000_000) + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Day number of January 1st.
fn days_from_new_year(year: i64) -> i64 {
    let y = year - 1;
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) - 719_162
}

/// Python's methods on strings, lists and dicts: minijinja-contrib's, and two
/// that templates use and it lacks.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match name {
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, name, args)
}
