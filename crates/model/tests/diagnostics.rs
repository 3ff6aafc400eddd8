//! What is said about each kind of fault, word for word; and that each kind has its page.
#![allow(clippy::unwrap_used)] // its allowance in tests does not reach their helpers

use std::{collections::BTreeSet, path::Path};

use model::{Code, Manifest, render_all};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn cases() -> Vec<(String, String)> {
    let mut cases: Vec<(String, String)> = std::fs::read_dir(folder("tests/manifest"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    cases.sort();
    cases
}

#[test]
fn faults_read_as_their_goldens() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder("tests/manifest"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, text) in cases() {
            let faults = Manifest::parse(&text).expect_err(&name);
            insta::assert_snapshot!(name, render_all(&faults, "system.toml", &text, false));
        }
    });
}

#[test]
fn a_golden_shows_the_code_it_is_called_after_and_every_code_has_one() {
    let mut shown = BTreeSet::new();
    for (name, text) in cases() {
        let codes: Vec<Code> = Manifest::parse(&text).expect_err(&name).iter().map(|fault| fault.code).collect();
        let own = name[..5].to_uppercase();
        assert!(codes.iter().any(|code| code.to_string() == own), "{name} shows {codes:?}");
        shown.extend(codes);
    }
    assert_eq!(shown, Code::ALL.into_iter().collect());
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let pages: BTreeSet<String> = std::fs::read_dir(folder("../../docs/errors"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // S0100 says that there are faults; each fault has one of the others.
        .filter(|name| name.starts_with("S01") && name != "S0100.md")
        .collect();
    let codes: BTreeSet<String> = Code::ALL.iter().map(|code| format!("{code}.md")).collect();
    assert_eq!(pages, codes);
    for code in Code::ALL {
        let page = std::fs::read_to_string(folder("../../docs/errors").join(format!("{code}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {code}: ")), "{code} begins with its name");
        for part in ["## What happened", "## What to try", "## Example"] {
            assert!(page.contains(part), "{code} lacks {part}");
        }
    }
}

#[test]
fn the_examples_of_the_pages_are_refused_and_accepted_as_they_say() {
    for code in Code::ALL {
        let page = std::fs::read_to_string(folder("../../docs/errors").join(format!("{code}.md"))).unwrap();
        let blocks: Vec<String> = page
            .split("```toml\n")
            .skip(1)
            .map(|part| part.split("```").next().unwrap())
            .map(|block| {
                if block.starts_with("stamp ") {
                    block.to_owned()
                } else {
                    format!("stamp = 1\nsystem = \"shop\"\n[stamps.dev]\n\n{block}")
                }
            })
            .collect();
        let [refused, accepted] = blocks.as_slice() else { panic!("{code} has {} examples", blocks.len()) };
        let faults = Manifest::parse(refused).expect_err("the first example is refused");
        assert!(
            faults.iter().any(|fault| fault.code == code),
            "{code}: {}",
            render_all(&faults, "system.toml", refused, false)
        );
        if let Err(faults) = Manifest::parse(accepted) {
            panic!("{code}: {}", render_all(&faults, "system.toml", accepted, false));
        }
    }
}

#[test]
fn secrets_in_a_manifest_are_not_repeated() {
    let (_, text) = cases().into_iter().find(|(name, _)| name.starts_with("s0120")).unwrap();
    let faults = Manifest::parse(&text).unwrap_err();
    assert_eq!(faults.len(), 4);
    let shown = render_all(&faults, "system.toml", &text, true);
    let json: String = faults.iter().map(|fault| fault.to_json("system.toml", &text).to_string()).collect();
    assert!(!shown.contains("horse") && !json.contains("horse"), "{shown}\n{json}");
}

#[test]
fn a_fault_as_json_has_its_place() {
    let text = "stamp = 1\nsystem = \"shop\"\nstamsp = {}\n[stamps.dev]\n";
    let fault = &Manifest::parse(text).unwrap_err()[0];
    insta::assert_json_snapshot!(fault.to_json("system.toml", text), @r#"
    {
      "code": "S0102",
      "message": "a manifest has no key `stamsp`",
      "file": "system.toml",
      "line": 3,
      "column": 1,
      "span": [
        26,
        32
      ],
      "notes": [],
      "hint": "did you mean `stamps`?"
    }
    "#);
}
