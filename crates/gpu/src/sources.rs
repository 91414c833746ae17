//! The kernels' sources, as compilers take them.

/// A program: one kernel file for one word.
pub struct Source {
    /// Its file in `kernels/`.
    pub file: &'static str,
    text: &'static str,
    /// What `W` stands for and the suffix of the kernels' names; empty where the file knows no `W`.
    pub word: &'static str,
    /// What NVIDIA's compiler made of it.
    pub ptx: &'static str,
}

macro_rules! source {
    ($file:literal, $word:literal, $name:literal) => {
        Source {
            file: $file,
            text: include_str!(concat!("../kernels/", $file)),
            word: $word,
            ptx: include_str!(concat!("../kernels/ptx/", $name, ".ptx")),
        }
    };
}

const DIALECT: &str = include_str!("../kernels/dialect.h");

/// All programs.
pub const SOURCES: [Source; 6] = [
    source!("random.cl", "", "random"),
    source!("words.cl", "u32", "words_u32"),
    source!("words.cl", "u64", "words_u64"),
    source!("widths.cl", "", "widths"),
    source!("compare.cl", "", "compare"),
    source!("linear.cl", "", "linear"),
];

impl Source {
    /// The text for a compiler.
    #[must_use]
    pub fn full(&self) -> String {
        // `NAME(select)` is select_u32 or select_u64; EXTENDED keeps an element's sign.
        let word = match self.word {
            "" => String::new(),
            word => {
                let extended = if word == "u32" { "((u64)(s64)(s32)(x))" } else { "(x)" };
                format!("#define W {word}\n#define NAME(kernel) kernel##_{word}\n#define EXTENDED(x) {extended}\n")
            }
        };
        format!("{DIALECT}\n{word}#line 1 \"{}\"\n{}", self.file, self.text)
    }

    /// The file of its PTX.
    #[must_use]
    pub fn ptx_file(&self) -> String {
        let stem = self.file.trim_end_matches(".cl");
        if self.word.is_empty() { format!("{stem}.ptx") } else { format!("{stem}_{}.ptx", self.word) }
    }

    /// The kernels, read off its text.
    #[must_use]
    pub fn kernels(&self) -> Vec<String> {
        let heads = self.text.lines().filter_map(|l| l.strip_prefix("KERNEL(")?.split_once(") "));
        heads
            .filter_map(|(_, head)| match head.strip_prefix("NAME(") {
                Some(rest) => Some(format!("{}_{}", rest.split_once(')')?.0, self.word)),
                None => Some(head.split_once('(')?.0.to_owned()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_the_ptx_of_its_kernels() {
        for source in &SOURCES {
            let kernels = source.kernels();
            assert!(!kernels.is_empty(), "{}", source.file);
            for kernel in kernels {
                assert!(source.ptx.contains(&format!(".entry {kernel}(")), "{kernel}: write the PTX again");
            }
        }
    }
}
