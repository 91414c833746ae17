//! Known answers, which `scripts/vectors.py` computes from definitions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::aes128::Aes;
use crate::ferret::{code, tree};
use crate::hash::Hash;
use crate::kkot;

#[test]
fn kernels_give_what_their_definitions_say() {
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    for line in include_str!("../tests/vectors/kernels.txt").lines().filter(|l| !l.starts_with('#')) {
        let (kind, fields) = line.split_once(' ').unwrap();
        let f: Vec<u128> = fields.split(' ').map(|f| u128::from_str_radix(f, 16).unwrap()).collect();
        *kinds.entry(kind).or_default() += 1;
        match kind {
            "aes" => {
                let mut block = [f[1]];
                Aes::new(f[0]).encrypt(&mut block);
                assert_eq!(block[0], f[2], "{line}");
            }
            "hash" => {
                let strings = [0, f[4]].map(|add| {
                    let mut out: Vec<u64> = vec![];
                    Hash::new(f[0], f[1] as u8).cut(f[2] as u64, &[f[3]], add, &mut out);
                    u128::from(out[0])
                });
                assert_eq!(strings, [f[5], f[6]], "{line}");
            }
            "row" => {
                let mut out = vec![];
                Hash::new(f[0], f[1] as u8).rows(f[2] as u64, &[f[3]], 0, f[4] as usize, &mut out);
                let block = &out[2 * f[5] as usize..][..2];
                assert_eq!(u128::from(block[0]) | u128::from(block[1]) << 64, f[6], "{line}");
            }
            "tree" => {
                let depth = f[3] as usize;
                let mut leaves = vec![0; 1 << depth];
                let sums = tree::left_sums(&Aes::new(f[0]), f[1], f[2], &mut leaves);
                tree::grow(&Aes::new(f[0]), f[1], f[2], &mut leaves);
                assert_eq!([sums, leaves].concat(), f[4..], "{line}");
            }
            "code" => {
                let constant = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835u128;
                let table: Vec<u128> = (1..=1u128 << f[1]).map(|i| i.wrapping_mul(constant)).collect();
                let mut outputs = vec![0; f.len() - 2];
                code::add(&Aes::new(f[0]), &table, 0, &mut outputs, &mut vec![]);
                assert_eq!(outputs, f[2..], "{line}");
            }
            "word" => assert_eq!(kkot::word(f[0] as u8), [f[1], f[2]], "{line}"),
            "many" => assert_eq!(u128::from(kkot::string(f[0], f[1] as u64, [f[2], f[3]])), f[4], "{line}"),
            kind => panic!("no kernel is called {kind}"),
        }
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        [("aes", 3), ("code", 3), ("hash", 4), ("many", 4), ("row", 3), ("tree", 2), ("word", 4)]
    );
}
