//! Whatever the text is, reading it ends with a system or with faults that point into the text.
#![allow(clippy::unwrap_used)] // its allowance in tests does not reach their helpers

use model::{EXAMPLE, Manifest, render_all};
use proptest::prelude::*;

fn survives(text: &str) {
    match Manifest::parse(text) {
        Ok(manifest) => {
            for stamp in manifest.stamps() {
                manifest.resolve(stamp).unwrap();
            }
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            for fault in &faults {
                assert!(fault.span.start <= fault.span.end && fault.span.end <= text.len(), "{fault:?}");
                assert!(fault.place(text).line >= 1);
                assert!(!fault.message.is_empty());
            }
            let shown = render_all(&faults, "system.toml", text, true);
            assert!(shown.contains("error["));
        }
    }
}

/// Words and marks that manifests are made of, to get past the first fault.
fn fragment() -> impl Strategy<Value = String> {
    let words = "stamp system stamps dev prod edge routes service web run port needs env postgres main version want accept access to right \
                 vault secrets from what for generate ask identity clients redirect network space subnets objectives within drill groups \
                 holds only without links shared registry telemetry retention job cron every";
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let marks: Vec<String> = [
        "=",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\n",
        ".",
        " ",
        "\"",
        "'''",
        "#",
        "1",
        "16",
        "true",
        "-1",
        "9e9",
        "\"service.web\"",
        "\"{stamp}\"",
        "\"{postgres.main.host}\"",
        "\"@Microsoft.KeyVault(VaultName=main;SecretName=K)\"",
        "\"5m\"",
        "\"10.0.0.0/8\"",
        "é",
        "\u{0}",
    ]
    .map(str::to_owned)
    .into();
    prop_oneof![prop::sample::select(words), prop::sample::select(marks)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused_with_its_place(text in "\\PC{0,200}") {
        survives(&text);
    }

    #[test]
    fn any_words_of_the_format_are_read_or_refused(parts in prop::collection::vec(fragment(), 0..60)) {
        survives(&parts.concat());
        survives(&format!("stamp = 1\nsystem = \"shop\"\n[stamps.dev]\n{}", parts.join(" ")));
    }

    #[test]
    fn a_manifest_with_a_piece_taken_out_or_put_in_is_read_or_refused(
        at in 0..EXAMPLE.len(), length in 0_usize..40, put in prop_oneof![Just(String::new()), fragment(), "\\PC{0,10}"],
    ) {
        let start = (0..=at).rev().find(|i| EXAMPLE.is_char_boundary(*i)).unwrap();
        let end = (start + length..=EXAMPLE.len()).find(|i| EXAMPLE.is_char_boundary(*i)).unwrap_or(EXAMPLE.len());
        survives(&format!("{}{put}{}", &EXAMPLE[..start], &EXAMPLE[end..]));
    }

    #[test]
    fn a_manifest_with_a_value_replaced_is_read_or_refused(line in 0_usize..80, value in prop_oneof![fragment(), Just("[]".to_owned()), Just("{}".to_owned()), Just("[[{}]]".to_owned())]) {
        let lines: Vec<String> = EXAMPLE.lines().enumerate().map(|(n, l)| match l.split_once('=') {
            Some((key, _)) if n == line => format!("{key}= {value}"),
            _ => l.to_owned(),
        }).collect();
        survives(&lines.join("\n"));
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    for text in [
        format!("a = {}", "[".repeat(100_000)),
        format!("a{} = 1", ".b".repeat(100_000)),
        format!("a = {}1{}", "{ b = ".repeat(5_000), " }".repeat(5_000)),
    ] {
        survives(&text);
    }
}

#[test]
fn a_long_chain_of_needs_is_resolved_and_too_many_resources_are_refused() {
    let chain = |n: usize| -> String {
        let services = (0..n).map(|i| format!("[service.s{i}]\nrun = [\"x\"]\nneeds = [\"service.s{}\"]\n", i + 1));
        format!(
            "stamp = 1\nsystem = \"shop\"\n[stamps.dev]\n{}[service.s{n}]\nrun = [\"x\"]\n",
            services.collect::<String>()
        )
    };
    let system = Manifest::parse(&chain(150)).unwrap().resolve("dev").unwrap();
    assert_eq!(system.order.first().unwrap().to_string(), "service.s150");
    let faults = Manifest::parse(&chain(20_000)).unwrap_err();
    assert!(faults[0].message.contains("more than 200"), "{}", faults[0].message);
}
