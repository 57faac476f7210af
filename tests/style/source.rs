//! Rust source as the style tests read it: a scanner, not a parser. It knows comments, literals
//! and braces, which is enough for rules on imports, names and lengths.

use std::path::{Path, PathBuf};

/// One source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// `text` with each byte of a comment, string or character literal replaced by a space; lines
    /// and offsets are those of `text`.
    pub(crate) code: String,
    /// `code` without the items under `#[cfg(test)]`.
    pub(crate) shipped: String,
    /// The file as a whole is compiled for tests only.
    pub(crate) is_test: bool,
}

/// A path as a `use` or an expression names it.
pub(crate) type Named = Vec<String>;

impl Source {
    pub(crate) fn new(path: &Path, text: String) -> Self {
        let code = mask(&text);
        let shipped = without_tests(&code);
        Self { path: path.to_owned(), text, code, shipped, is_test: false }
    }

    /// Modules from the crate's root to this file: `src/a/b.rs` is `[a, b]`.
    pub(crate) fn module(&self) -> Named {
        let path = self.path.with_extension("");
        let mut names: Named =
            path.iter().skip(1).map(|name| name.to_string_lossy().into_owned()).collect();
        if matches!(names.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            names.pop();
        }
        names
    }

    /// Paths below the crate's root that the shipped code names, with their lines.
    pub(crate) fn crate_paths(&self) -> Vec<(usize, Named)> {
        let mut found = paths_below(&self.shipped, "crate");
        // `super` climbs to the root as well when there are enough of them.
        let depth = self.module().len();
        for (line, path) in paths_below(&self.shipped, "super") {
            let climbs = 1 + path.iter().take_while(|name| *name == "super").count();
            if climbs == depth {
                found.push((line, path[climbs - 1..].to_vec()));
            }
        }
        found
    }

    /// The line, name and length in lines of each function with a body.
    pub(crate) fn functions(&self) -> Vec<(usize, String, usize)> {
        let mut found = Vec::new();
        for at in words(&self.code, "fn") {
            let name = identifier(self.code[at + 2..].trim_start()).to_owned();
            let Some(open) = body_of(&self.code, at) else { continue };
            let close = matching_brace(&self.code, open);
            if !name.is_empty() {
                found.push((
                    line_of(&self.code, at),
                    name,
                    line_of(&self.code, close) - line_of(&self.code, at) + 1,
                ));
            }
        }
        found
    }
}

/// Every Rust file below the folders, those marked that a `#[cfg(test)] mod x;` brings in.
pub(crate) fn read_all(root: &Path, folders: &[&str]) -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in folders {
        read_folder(root, Path::new(folder), &mut sources);
    }
    let mut tests: Vec<PathBuf> = Vec::new();
    for source in &sources {
        let base = if source
            .path
            .file_stem()
            .is_some_and(|stem| stem == "mod" || stem == "lib" || stem == "main")
        {
            source.path.parent().unwrap_or(Path::new("")).to_owned()
        } else {
            source.path.with_extension("")
        };
        for module in test_modules(source) {
            // `#[path]` starts from the folder of the file, other than the module's own name.
            tests.push(match module.strip_prefix("..") {
                Ok(file) => source.path.with_file_name("").join(file).with_extension(""),
                Err(_) => base.join(module),
            });
        }
    }
    for source in &mut sources {
        source.is_test = tests
            .iter()
            .any(|test| source.path == test.with_extension("rs") || source.path.starts_with(test));
    }
    sources
}

fn read_folder(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return };
    let mut entries: Vec<_> =
        entries.flatten().map(|entry| folder.join(entry.file_name())).collect();
    entries.sort();
    for path in entries {
        if root.join(&path).is_dir() {
            read_folder(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(root.join(&path)).expect("readable source");
            sources.push(Source::new(&path, text));
        }
    }
}

/// Number, from 1, of the line that holds the byte.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Offsets of a word that is no part of a longer one.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_name = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let bytes = text.as_bytes();
        !is_name(at.checked_sub(1).and_then(|before| bytes.get(before)))
            && !is_name(bytes.get(at + word.len()))
    })
}

/// Every path that starts with `root::`, groups in braces unfolded.
pub(crate) fn paths_below(text: &str, root: &str) -> Vec<(usize, Named)> {
    let mut found = Vec::new();
    for at in words(text, root) {
        // `a::crate_name` is no start, and neither is the second `super` of two.
        if text[..at].trim_end().ends_with("::") {
            continue;
        }
        let Some(rest) = text[at + root.len()..].trim_start().strip_prefix("::") else { continue };
        let mut paths = Vec::new();
        unfold(rest, &mut Vec::new(), &mut paths);
        found.extend(paths.into_iter().map(|path| (line_of(text, at), path)));
    }
    found
}

/// Reads `a::b`, `a::{b, c::d}` and so on; returns how many bytes that took.
fn unfold(text: &str, prefix: &mut Named, paths: &mut Vec<Named>) -> usize {
    let mut rest = text.trim_start();
    let depth = prefix.len();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            let mut inside = group;
            while !inside.trim_start().starts_with('}') && !inside.trim().is_empty() {
                inside = &inside[unfold(inside, prefix, paths)..];
                inside = inside.trim_start();
                inside = inside.strip_prefix(',').unwrap_or(inside);
            }
            rest = inside.trim_start().strip_prefix('}').unwrap_or("");
            break;
        }
        let name = identifier(rest);
        if name.is_empty() {
            // A glob, or the end of something that the scanner does not know.
            paths.push(prefix.clone());
            rest = rest.get(1..).unwrap_or("");
            break;
        }
        prefix.push(name.to_owned());
        rest = rest[name.len()..].trim_start();
        match rest.strip_prefix("::") {
            Some(next) if !next.starts_with('<') => rest = next.trim_start(),
            _ => {
                paths.push(prefix.clone());
                let renamed = rest.strip_prefix("as ").map(str::trim_start);
                rest = renamed.map_or(rest, |rest| &rest[identifier(rest).len()..]);
                break;
            }
        }
    }
    prefix.truncate(depth);
    text.len() - rest.len()
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Files, relative to the declaring module's folder, of the modules that only tests compile.
fn test_modules(source: &Source) -> Vec<PathBuf> {
    let mark = "#[cfg(test)]";
    source
        .code
        .match_indices(mark)
        .filter_map(|(at, _)| {
            let start = at + mark.len();
            let end = start + source.code[start..].find([';', '{'])?;
            if source.code[end..].starts_with('{') {
                return None;
            }
            let (attributes, name) = source.code[start..end].split_once("mod ")?;
            if attributes.contains("path") {
                // The name of the file is a literal, which only `text` still has.
                let path = source.text[start..end].split('"').nth(1)?;
                return Some(Path::new("..").join(path));
            }
            Some(PathBuf::from(name.trim()))
        })
        .collect()
}

/// Blanks the items under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut shipped = code.to_owned();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let end = match code[at..].find([';', '{']).map(|end| at + end) {
            Some(open) if code[open..].starts_with('{') => matching_brace(code, open),
            Some(end) => end,
            None => code.len() - 1,
        };
        shipped.replace_range(at..=end, &blank(&code[at..=end]));
    }
    shipped
}

/// The opening brace of the function declared here; none for one without a body.
fn body_of(code: &str, at: usize) -> Option<usize> {
    let mut nested = 0_i32;
    for (offset, byte) in code[at..].bytes().enumerate() {
        match byte {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested -= 1,
            b'{' if nested == 0 => return Some(at + offset),
            b';' | b'}' if nested <= 0 => return None,
            _ => {}
        }
    }
    None
}

fn matching_brace(code: &str, open: usize) -> usize {
    let mut nested = 0_i32;
    for (offset, byte) in code[open..].bytes().enumerate() {
        match byte {
            b'{' => nested += 1,
            b'}' if nested == 1 => return open + offset,
            b'}' => nested -= 1,
            _ => {}
        }
    }
    code.len() - 1
}

fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Blanks comments, strings and character literals.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = at + literal_length(&text[at..], out.as_bytes().last().copied());
        if end > at {
            out.push_str(&blank(&text[at..end]));
            at = end;
        } else {
            let length = text[at..].chars().next().map_or(1, char::len_utf8);
            out.push_str(if length == 1 { &text[at..=at] } else { "" });
            // Other than ASCII stands in comments and strings only; keep the offsets anyway.
            out.push_str(&" ".repeat(if length == 1 { 0 } else { length }));
            at += length;
        }
    }
    out
}

/// Length of the comment or literal that starts here, 0 for other code.
fn literal_length(text: &str, before: Option<u8>) -> usize {
    let in_name = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + 2);
    }
    if !in_name && (text.starts_with("r\"") || text.starts_with("r#") || text.starts_with("br")) {
        let after = text.trim_start_matches('b').trim_start_matches('r');
        let hashes = after.len() - after.trim_start_matches('#').len();
        if after[hashes..].starts_with('"') && after.len() < text.len() {
            let start = text.len() - after.len() + hashes + 1;
            let close = format!("\"{}", "#".repeat(hashes));
            return text[start..].find(&close).map_or(text.len(), |end| start + end + close.len());
        }
    }
    if let Some(rest) = text.strip_prefix('"') {
        return 1 + quoted_length(rest, b'"');
    }
    if let Some(rest) = text.strip_prefix('\'') {
        // A character, or else a lifetime.
        let mut characters = rest.chars();
        return match (characters.next(), characters.next()) {
            (Some('\\'), _) => 1 + quoted_length(rest, b'\''),
            (Some(one), Some('\'')) => 2 + one.len_utf8(),
            _ => 0,
        };
    }
    0
}

fn quoted_length(text: &str, close: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == close => return at + 1,
            _ => {}
        }
    }
    text.len()
}
