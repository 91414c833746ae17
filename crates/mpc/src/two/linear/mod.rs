//! Products with the model owner's weights: its own with its share, and one with the client's share, on ciphertexts or by transfers.

mod he;
mod ot;

use super::engine::{Two, wrong_form};
use super::share::Shared;
use crate::{Error, Linear, Result, Settings, Step, Truncation, Width};
use he::Cipher;
pub(super) use ot::{Batch, Piece, batches, share_bits, work};
use sordino_he::params::guard;
use sordino_he::{Layout, Params};
use sordino_ring::{Conv2d, Device, convolve, prepare_one};
use std::collections::HashMap;

/// A linear operand: at the model's owner its weights, at the client its geometry.
pub struct Weight {
    values: Option<Vec<i64>>,
}

/// How a session's linear layers are computed, which is chosen for all of them when the first run begins.
#[derive(Default)]
pub(super) struct Linears {
    ops: Vec<Conv2d>,
    made: Option<Made>,
}

struct Made {
    ways: Ways,
    /// This party's part of the encryption, if any layer needs it.
    cipher: Option<Cipher>,
}

/// Most products that one sum has.
const TERMS: usize = 2;

/// For each geometry the way that its product takes: a function of all geometries and the settings, so that both parties agree.
#[derive(Default)]
pub(super) struct Ways {
    /// The modulus, and how layers on ciphertexts are cut. The others go by transfers.
    encrypted: Option<(Params, HashMap<Conv2d, Layout>)>,
}

impl Ways {
    /// The ways of all layers of a program.
    ///
    /// # Errors
    /// Where ciphertexts are asked for: when no modulus is large enough, or a kernel larger than a polynomial.
    pub(super) fn new(ops: &[Conv2d], settings: &Settings) -> Result<Self> {
        let ciphertexts = |ops: &[Conv2d]| -> Result<Self> {
            if ops.is_empty() {
                return Ok(Self::default());
            }
            let (params, bits) = (params(ops, settings)?, settings.wide_bits + guard(TERMS));
            let layouts = ops.iter().map(|op| (*op, Layout::new(*op, params, bits))).collect();
            Ok(Self { encrypted: Some((params, layouts)) })
        };
        match settings.linear {
            Linear::He => ciphertexts(ops),
            Linear::Ot => Ok(Self::default()),
            Linear::Auto => {
                let fit: Vec<Conv2d> = ops.iter().filter(|op| Layout::fits(op)).copied().collect();
                // Weights of many bits may leave ciphertexts no room at all.
                let Ok(Self { encrypted: Some((params, layouts)) }) = ciphertexts(&fit) else {
                    return Ok(Self::default());
                };
                let bits = settings.wide_bits + guard(TERMS);
                let cheaper = |op: &Conv2d| layouts[op].cost(params, bits) <= ot::cost(op, settings);
                ciphertexts(&fit.into_iter().filter(cheaper).collect::<Vec<_>>())
            }
        }
    }

    /// The modulus, if any layer is on ciphertexts.
    pub(super) fn modulus(&self) -> Option<Params> {
        self.encrypted.as_ref().map(|(params, _)| *params)
    }

    /// The modulus and the cut of a layer on ciphertexts.
    pub(super) fn encrypted(&self, op: &Conv2d) -> Option<(Params, &Layout)> {
        let (params, layouts) = self.encrypted.as_ref()?;
        Some((*params, layouts.get(op)?))
    }

    /// Guard bits of a sum of such products: those by transfers have no error.
    pub(super) fn guard<'a>(&self, ops: impl Iterator<Item = &'a Conv2d>) -> u32 {
        match ops.filter(|op| self.encrypted(op).is_some()).count() {
            0 => 0,
            answers => guard(answers),
        }
    }
}

/// The modulus for layers of these geometries.
fn params(ops: &[Conv2d], settings: &Settings) -> Result<Params> {
    let Settings { wide_bits, weight_bits, .. } = *settings;
    if let Some(op) = ops.iter().find(|op| !Layout::fits(op)) {
        let why =
            format!("a kernel of {:?} is larger than a ciphertext; products by transfers (ot) take any", op.kernel);
        return Err(Error::Usage(why));
    }
    sordino_he::layout::modulus(ops, wide_bits + guard(TERMS), weight_bits).ok_or_else(|| {
        let sum = format!("products of {wide_bits} bits with weights of {weight_bits} bits");
        Error::Usage(format!(
            "{sum} leave no room for the encryption's noise; use fewer bits, or products by transfers (ot)"
        ))
    })
}

impl<D: Device> Two<D> {
    /// `values` is there at whoever the weights are from.
    pub(super) fn prepared(&self, values: Option<Option<&[i64]>>, op: &Conv2d) -> Result<Weight> {
        crate::fit::sensible(op)?;
        let mut linears = self.linears.borrow_mut();
        if linears.made.is_some() {
            return Err(Error::Usage("weights come before the first run".into()));
        }
        linears.ops.push(*op);
        let values = match values {
            None => None,
            Some(Some(v)) if v.len() == op.weight().len() => {
                let most = 1u64 << (self.settings.weight_bits.clamp(1, 63) - 1);
                if v.iter().any(|v| v.unsigned_abs() >= most) {
                    let bits = self.settings.weight_bits;
                    return Err(Error::Usage(format!("a weight has more than the {bits} bits that the program says")));
                }
                Some(v.to_vec())
            }
            Some(_) => return Err(Error::Usage("a weight has not as many values as its shape".into())),
        };
        Ok(Weight { values })
    }

    /// The owner's product with its own share. What the kernel reads is made anew each time: it is little work beside the rest of a product,
    /// and twice the memory of the weights.
    fn own_product(&self, x: &Shared<D>, weights: &[i64], op: &Conv2d) -> Result<Vec<u64>> {
        let panel = prepare_one(&self.dev, &self.dev.upload(weights.iter().map(|v| *v as u64).collect()), op);
        Ok(self.dev.download(convolve(&self.dev, &x.data, &panel, op))?)
    }

    /// Chooses the way of every layer, and makes the encryption's key if one needs it; once.
    pub(super) fn agreed(&self, at: &Step) -> Result<()> {
        let mut linears = self.linears.borrow_mut();
        if linears.made.is_some() || linears.ops.is_empty() {
            return Ok(());
        }
        let ways = Ways::new(&linears.ops, &self.settings)?;
        let cipher = ways.modulus().map(|params| self.keyed(at, params)).transpose()?;
        linears.made = Some(Made { ways, cipher });
        Ok(())
    }

    /// `sum_j conv(x_j, w_j) + bias`, wide, with guard bits. Where truncations are off by a unit these come off first: a truncation that
    /// loses their carry would depend on the encryption's error, and so on more than the product.
    pub(super) fn products(
        &self,
        mut at: Step,
        terms: &[(&Shared<D>, &Weight, Conv2d)],
        bias: Option<&Shared<D>>,
    ) -> Result<Shared<D>> {
        let Some((_, _, first)) = terms.first() else {
            return Err(Error::Usage("a linear layer takes at least one term".into()));
        };
        if terms.len() > TERMS {
            return Err(Error::Usage(format!("a sum of {} products; {TERMS} are possible", terms.len())));
        }
        let linears = self.linears.borrow();
        let Some(Made { ways, cipher }) = &linears.made else {
            return Err(Error::Usage("the parties have not agreed on a key yet".into()));
        };
        let guard = ways.guard(terms.iter().map(|(.., op)| op));
        let mut sum = vec![0u64; first.output().len()];
        for (x, weight, op) in terms {
            crate::fit::fits_linear(&x.shape, op)?;
            if !linears.ops.contains(op) {
                return Err(Error::Usage("a product with weights of another geometry".into()));
            }
            let (at, x) = (at.child("term"), x.wide()?.exact()?);
            match (ways.encrypted(op), cipher) {
                (Some((_, layout)), Some(cipher)) => {
                    let y = self.encrypted_product(&at, x, weight, cipher, layout, guard)?;
                    sum.iter_mut().zip(y).for_each(|(s, y)| *s = s.wrapping_add(y));
                }
                (None, _) => {
                    let y = self.transferred_product(at, x, weight, op)?;
                    sum.iter_mut().zip(y).for_each(|(s, y)| *s = s.wrapping_add(y << guard));
                }
                _ => return Err(wrong_form()),
            }
        }
        if let Some(bias) = bias {
            let bias = bias.wide()?.exact()?.words(&self.dev)?;
            if bias.is_empty() || sum.len() % bias.len() != 0 {
                let shape = first.output();
                return Err(Error::Usage(format!("a bias of {} elements for a result of {shape}", bias.len())));
            }
            sum.iter_mut().zip(bias.iter().cycle()).for_each(|(s, b)| *s = s.wrapping_add(b << guard));
        }
        let z = Shared::new(&self.dev, first.output(), Width::Wide, guard, sum);
        match self.settings.truncation {
            Truncation::Exact => Ok(z),
            Truncation::OneBit => self.unguarded(at.child("guard"), &z),
        }
    }
}
