//! Recipes that nobody wrote in good faith: always an error, soon, and never a panic.

use std::time::{Duration, Instant};

use bise::merge::Recipe;

use crate::support::{SLERP, refusal};

#[test]
fn the_size_is_limited() {
    let long = format!("{SLERP}#{}", "x".repeat(1 << 20));
    assert!(refusal(&long).1.contains("at most 1048576 are read"));
    let just = format!("{SLERP}#{}", "x".repeat((1 << 20) - SLERP.len() - 1));
    assert!(Recipe::parse(&just).is_ok());
}

#[test]
fn the_depth_is_limited() {
    // t lies one level below the root's mapping and its own: 62 lists more are read, and then refused
    // for what they are.
    let nested =
        |levels: usize| SLERP.replace("0.5", &format!("{}1{}", "[".repeat(levels), "]".repeat(levels)));
    assert!(refusal(&nested(62)).1.contains("must be a number"), "{:?}", refusal(&nested(62)));
    assert!(refusal(&nested(63)).1.contains("more than 64 levels"), "{:?}", refusal(&nested(63)));
    assert!(refusal(&"- ".repeat(100_000)).1.contains("more than 64 levels"));
    // Ten lists at every alias, one inside the other.
    let mut steps = String::from("x:\n- &a0 [[[[[[[[[[1]]]]]]]]]]\n");
    for step in 1..8 {
        steps += &format!("- &a{step} [[[[[[[[[[*a{}]]]]]]]]]]\n", step - 1);
    }
    assert!(refusal(&steps).1.contains("levels of nesting behind this alias"), "{:?}", refusal(&steps));
}

#[test]
fn a_billion_laughs_are_counted() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let uses = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs += &format!("a{level}: &a{level} [{uses}]\n");
    }
    assert!(refusal(&laughs).1.contains("grows beyond 50000 values"), "{:?}", refusal(&laughs));
    // Few nodes, long texts.
    let text = "x".repeat(500_000);
    let long = format!("a: &a {text}\nb: [*a, *a, *a, *a, *a]\n");
    assert!(refusal(&long).1.contains("aliases written out"), "{:?}", refusal(&long).0);
    // Anchors within anchors hold copies of one another.
    let nested = format!("{}{}{}", "&a [".repeat(60), "1,".repeat(20_000), "]".repeat(60));
    assert!(refusal(&nested).1.contains("grows beyond 50000 values"), "{:?}", refusal(&nested));
}

#[test]
fn messages_stay_short() {
    let long = "x".repeat(100_000);
    for yaml in [
        format!("{long}: 1"),
        SLERP.replace("0.5", &long),
        SLERP.replace("merge_method: slerp", &format!("merge_method: {long}")),
        SLERP.replace("{t: 0.5}", &format!("{{t: 1, {long}: 1}}")),
        format!("{SLERP}dtype: {long}"),
        format!("{SLERP}chat_template: {long}"),
        format!("{SLERP}name: {long}\n---\nx: 1"),
        format!("{SLERP}name: {}", "1".repeat(100_000)),
        SLERP.replace("{model: b}", &format!("{{model: a@{long}@}}")),
    ] {
        let (place, message) = refusal(&yaml);
        assert!(place.len() + message.len() < 500, "{place} {message}");
    }
}

#[test]
fn nothing_takes_long() {
    let pieces = [
        "[",
        "{",
        "- ",
        "? ",
        "a: ",
        "&a ",
        "*a ",
        "!t ",
        "!!",
        "'",
        "\"",
        "\\",
        "|\n",
        ">\n ",
        "#",
        "%",
        "--- ",
        "---\n",
        "...\n",
        ",",
        "[a, ",
        "{a: ",
        "a: [",
        "\n",
        " ",
        "\t",
        "\r",
        "\0",
        "\u{feff}",
        "\u{85}",
        "\u{2028}",
        "é",
        "a\n",
        "a: a\n",
        "? a\n",
        "- - a\n",
        "[]",
        "{}",
        "a: {b: [",
        "'a'",
        "\"\\x41",
        "a b ",
        "- a\n",
        "x: &y z\n",
        "%TAG ! x\n",
        "%YAML 1.2\n---\n",
        ": ",
        ":\n",
        "[a]: ",
        "'a\n",
        "\"a\n",
        "|2\n   ",
        "@",
        "`",
    ];
    for piece in pieces {
        for head in ["", "x: ", "x: [", "x: |\n ", "x: \""] {
            let yaml = format!("{head}{}", piece.repeat(200_000 / piece.len()));
            let began = Instant::now();
            assert!(Recipe::parse(&yaml).is_err(), "{head}{piece}");
            let took = began.elapsed();
            assert!(took < Duration::from_secs(5), "{head:?} and then {piece:?} took {took:?}");
        }
    }
}
