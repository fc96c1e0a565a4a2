//! The files of the checkout, as text, read once.

use std::fs;

use anyhow::Result;

use super::code::code_only;
use crate::host::{checked_in, root};

/// A text file.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Relative to the root of the checkout, with `/`.
    pub(super) path: String,
    /// All of it.
    pub(super) text: String,
    /// Of a Rust file the code alone: comments and literals are blanks.
    pub(super) code: String,
}

impl File {
    fn new(path: String, text: String) -> Self {
        let code = if path.ends_with(".rs") {
            code_only(&text)
        } else {
            String::new()
        };
        Self { path, text, code }
    }

    /// Whether it is Rust.
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines of code with their numbers from 1.
    pub(super) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    /// Lines of text with their numbers from 1.
    pub(super) fn text_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

/// All files.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    files: Vec<File>,
}

impl Tree {
    /// What git tracks and what it would add; files that are not text are left out.
    pub(super) fn of_checkout() -> Result<Self> {
        let files = checked_in()?
            .into_iter()
            .filter_map(|path| {
                let text = fs::read_to_string(root().join(&path)).ok()?;
                Some(File::new(path, text))
            })
            .collect();
        Ok(Self { files })
    }

    /// How many files.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// All files.
    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// All Rust files.
    pub(super) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files().filter(|file| file.is_rust())
    }

    /// Files in a folder; `folder` ends with `/`.
    pub(super) fn under<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a File> {
        self.files()
            .filter(move |file| file.path.starts_with(folder))
    }

    /// One file.
    pub(super) fn get(&self, path: &str) -> Option<&File> {
        self.files().find(|file| file.path == path)
    }

    /// A tree of samples.
    #[cfg(test)]
    pub(super) fn of(samples: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File::new((*path).to_owned(), (*text).to_owned());
        Self {
            files: samples.iter().map(file).collect(),
        }
    }
}
