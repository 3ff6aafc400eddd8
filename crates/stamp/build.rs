//! Builds the error pages of `docs/errors` into the binary.

use std::{env, fs, path::PathBuf};

fn main() {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../docs/errors");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut pages: Vec<(String, PathBuf)> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.path().file_stem()?.to_str()?.to_owned(), e.path().canonicalize().ok()?)))
        .filter(|(name, _)| name.starts_with('S'))
        .collect();
    pages.sort();
    let mut text = String::from("/// Every page, by its code.\nconst PAGES: &[(&str, &str)] = &[\n");
    for (name, path) in pages {
        text.push_str(&format!("    ({name:?}, include_str!({:?})),\n", path.display().to_string()));
    }
    text.push_str("];\n");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("pages.rs");
    fs::write(out, text).expect("the build folder can be written");
}
