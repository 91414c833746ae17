//! Products with the model owner's weights: its own with its share, and one on the client's encrypted share.

use super::engine::{Two, wrong_form};
use super::share::Shared;
use crate::{Error, Result, Step, Width};
use sordino_he::params::guard;
use sordino_he::{Layout, Params, PublicKey, Scheme, SecretKey, layer};
use sordino_net::Part;
use sordino_ring::{Conv2d, Device, convolve, prepare_one};
use std::collections::HashMap;

/// A linear operand: at the model's owner its weights, at the client its geometry.
pub struct Weight<D: Device> {
    values: Option<(Vec<i64>, D::Panel)>,
}

/// The scheme of a session, which is chosen for all its linear layers when the first run begins, and this party's key.
#[derive(Default)]
pub(super) struct Encryption {
    ops: Vec<Conv2d>,
    made: Option<Made>,
}

struct Made {
    scheme: Scheme,
    key: Key,
    /// How each geometry is cut.
    layouts: HashMap<Conv2d, Layout>,
}

enum Key {
    Client(SecretKey),
    Owner(PublicKey),
}

/// Most products that one sum has.
pub(super) const TERMS: usize = 2;

/// The modulus for layers of these geometries.
///
/// # Errors
/// When no modulus is large enough, or a kernel larger than a polynomial.
pub(super) fn params(ops: &[Conv2d], wide_bits: u32, weight_bits: u32) -> Result<Params> {
    if let Some(op) = ops.iter().find(|op| !Layout::fits(op)) {
        return Err(Error::Usage(format!("a kernel of {:?} is larger than a ciphertext", op.kernel)));
    }
    sordino_he::layout::modulus(ops, wide_bits + guard(TERMS), weight_bits).ok_or_else(|| {
        let sum = format!("products of {wide_bits} bits with weights of {weight_bits} bits");
        Error::Usage(format!("{sum} leave no room for the encryption's noise; use fewer bits"))
    })
}

/// How a geometry is cut: for the widest answers, as the modulus was chosen.
pub(super) fn layout(op: &Conv2d, params: Params, wide_bits: u32) -> Layout {
    Layout::new(*op, params, wide_bits + guard(TERMS))
}

impl<D: Device> Two<D> {
    /// `values` is there at whoever the weights are from.
    pub(super) fn prepared(&self, values: Option<Option<&[i64]>>, op: &Conv2d) -> Result<Weight<D>> {
        crate::fit::sensible(op)?;
        let mut encryption = self.encryption.borrow_mut();
        if encryption.made.is_some() {
            return Err(Error::Usage("weights come before the first run".into()));
        }
        encryption.ops.push(*op);
        let values = match values {
            None => None,
            Some(Some(v)) if v.len() == op.weight().len() => {
                let most = 1u64 << (self.settings.weight_bits.clamp(1, 63) - 1);
                if v.iter().any(|v| v.unsigned_abs() >= most) {
                    let bits = self.settings.weight_bits;
                    return Err(Error::Usage(format!("a weight has more than the {bits} bits that the program says")));
                }
                let panel = prepare_one(&self.dev, &self.dev.upload(v.iter().map(|v| *v as u64).collect()), op);
                Some((v.to_vec(), panel))
            }
            Some(_) => return Err(Error::Usage("a weight has not as many values as its shape".into())),
        };
        Ok(Weight { values })
    }

    /// Chooses the scheme and makes its key, once.
    pub(super) fn keyed(&self, at: &Step) -> Result<()> {
        let mut encryption = self.encryption.borrow_mut();
        if encryption.made.is_some() || encryption.ops.is_empty() {
            return Ok(());
        }
        let params = params(&encryption.ops, self.settings.wide_bits, self.settings.weight_bits)?;
        let scheme = Scheme::new(params);
        let key = if self.client {
            let (key, message) = SecretKey::new(&scheme, &mut self.own.borrow_mut());
            self.send(at, "public key", vec![Part::Wide(message)])?;
            Key::Client(key)
        } else {
            Key::Owner(PublicKey::read(&scheme, &self.recv_words(at, "public key", PublicKey::words(params))?)?)
        };
        let layouts = encryption.ops.iter().map(|op| (*op, layout(op, params, self.settings.wide_bits))).collect();
        encryption.made = Some(Made { scheme, key, layouts });
        Ok(())
    }

    /// `sum_j conv(x_j, w_j) + bias`, wide, with guard bits.
    pub(super) fn products(
        &self,
        mut at: Step,
        terms: &[(&Shared<D>, &Weight<D>, Conv2d)],
        bias: Option<&Shared<D>>,
    ) -> Result<Shared<D>> {
        let Some((_, _, first)) = terms.first() else {
            return Err(Error::Usage("a linear layer takes at least one term".into()));
        };
        if terms.len() > TERMS {
            return Err(Error::Usage(format!("a sum of {} products; {TERMS} are possible", terms.len())));
        }
        let guard = guard(terms.len());
        let bits = self.settings.wide_bits + guard;
        let mut sum = vec![0u64; first.output().len()];
        for (x, weight, op) in terms {
            crate::fit::fits_linear(&x.shape, op)?;
            let y = self.product(&at.child("term"), x.wide()?.exact()?, weight, op, bits, guard)?;
            sum.iter_mut().zip(y).for_each(|(s, y)| *s = s.wrapping_add(y));
        }
        if let Some(bias) = bias {
            let bias = bias.wide()?.exact()?.words(&self.dev)?;
            if bias.is_empty() || sum.len() % bias.len() != 0 {
                let shape = first.output();
                return Err(Error::Usage(format!("a bias of {} elements for a result of {shape}", bias.len())));
            }
            sum.iter_mut().zip(bias.iter().cycle()).for_each(|(s, b)| *s = s.wrapping_add(b << guard));
        }
        Ok(Shared::new(&self.dev, first.output(), Width::Wide, guard, sum))
    }

    fn product(
        &self,
        at: &Step,
        x: &Shared<D>,
        weight: &Weight<D>,
        op: &Conv2d,
        bits: u32,
        guard: u32,
    ) -> Result<Vec<u64>> {
        let encryption = self.encryption.borrow();
        let Some(Made { scheme, key, layouts }) = &encryption.made else {
            return Err(Error::Usage("the parties have not agreed on a key yet".into()));
        };
        let Some(layout) = layouts.get(op) else {
            return Err(Error::Usage("a product with weights of another geometry".into()));
        };
        let place = layer::Place { scheme, layout, bits, threads: self.threads };
        match (key, &weight.values) {
            (Key::Client(key), None) => {
                let wide = self.settings.wide_bits;
                let mut share = x.words(&self.dev)?;
                share.iter_mut().for_each(|v| *v &= u64::MAX >> (64 - wide));
                let question = layer::question(&place, key, &share, wide, &mut self.own.borrow_mut());
                self.send(at, "ciphertexts", vec![Part::Wide(question)])?;
                let answer = self.recv_words(at, "answers", layout.answer_words(bits))?;
                Ok(layer::read(&place, key, &answer)?)
            }
            (Key::Owner(key), Some((weights, panel))) => {
                // What needs no message goes first: it is done while ciphertexts travel.
                let own = self.dev.download(convolve(&self.dev, &x.data, panel, op))?;
                let question = self.recv_words(at, "ciphertexts", layer::question_words(scheme.params, layout))?;
                let mut random = self.own.borrow_mut();
                let (answer, share) = layer::answer(&place, key, weights, &question, &mut random)?;
                self.send(at, "answers", vec![Part::Wide(answer)])?;
                Ok(share.iter().zip(own).map(|(r, y)| r.wrapping_add(y << guard)).collect())
            }
            _ => Err(wrong_form()),
        }
    }
}
