//! Replicated shares.

use crate::{Error, Local, Result, Width};
use sordino_ring::{Device, Shape, Word, ZipOp};
use std::sync::Arc;

/// One server's two components of a shared buffer: x_i and x_{i+1}.
pub(crate) struct Pair<D: Device, W: Word>(pub(crate) D::Buf<W>, pub(crate) D::Buf<W>);

impl<D: Device, W: Word> Pair<D, W> {
    fn map(&self, f: impl Fn(&D::Buf<W>) -> D::Buf<W>) -> Self {
        Self(f(&self.0), f(&self.1))
    }
    fn zip(&self, other: &Self, f: impl Fn(&D::Buf<W>, &D::Buf<W>) -> D::Buf<W>) -> Self {
        Self(f(&self.0, &other.0), f(&self.1, &other.1))
    }
}

pub(crate) enum Data<D: Device> {
    Narrow(Pair<D, u32>),
    Wide(Pair<D, u64>),
}

/// A shared tensor. Cheap to clone; no `Debug`.
pub struct Shared<D: Device> {
    pub(crate) shape: Shape,
    pub(crate) data: Arc<Data<D>>,
}

impl<D: Device> Clone for Shared<D> {
    fn clone(&self) -> Self {
        Self { shape: self.shape.clone(), data: Arc::clone(&self.data) }
    }
}

impl<D: Device> Shared<D> {
    pub(crate) fn narrow(shape: Shape, pair: Pair<D, u32>) -> Self {
        Self { shape, data: Arc::new(Data::Narrow(pair)) }
    }
    pub(crate) fn wide(shape: Shape, pair: Pair<D, u64>) -> Self {
        Self { shape, data: Arc::new(Data::Wide(pair)) }
    }
    pub(crate) fn as_narrow(&self) -> Result<&Pair<D, u32>> {
        match &*self.data {
            Data::Narrow(pair) => Ok(pair),
            Data::Wide(_) => Err(Error::Usage("this operation takes a narrow tensor".into())),
        }
    }
    pub(crate) fn as_wide(&self) -> Result<&Pair<D, u64>> {
        match &*self.data {
            Data::Wide(pair) => Ok(pair),
            Data::Narrow(_) => Err(Error::Usage("this operation takes a wide tensor".into())),
        }
    }
    pub(crate) fn width(&self) -> Width {
        match &*self.data {
            Data::Narrow(_) => Width::Narrow,
            Data::Wide(_) => Width::Wide,
        }
    }
}

/// Adds a public integer to a shared value: to component 0 only, which servers 0 and 2 hold.
fn offset<D: Device, W: Word>(dev: &D, me: usize, x: &Pair<D, W>, c: i64) -> Pair<D, W> {
    let add = |buf: &D::Buf<W>, yes: bool| {
        if yes { dev.affine(buf, W::from_i64(1), W::from_i64(c)) } else { dev.copy(buf) }
    };
    Pair(add(&x.0, me == 0), add(&x.1, me == 2))
}

fn apply<D: Device, W: Word>(dev: &D, me: usize, op: &Local<'_>, xs: &[&Pair<D, W>]) -> Result<Pair<D, W>> {
    let rows = |y: &Pair<D, W>, negate: bool| match xs {
        [x, _] if negate => x.zip(y, |a, b| dev.add_rows(a, &dev.affine(b, W::from_i64(-1), W::from_i64(0)))),
        _ => xs[0].zip(y, |a, b| dev.add_rows(a, b)),
    };
    let binary = |op| match xs {
        [x, y] if dev.len(&x.0) != dev.len(&y.0) => Ok(rows(y, op == ZipOp::Sub)),
        [x, y] => Ok(x.zip(y, |a, b| dev.zip(op, a, b))),
        _ => Err(Error::Usage("this operation takes two operands".into())),
    };
    let unary = || xs.first().ok_or_else(|| Error::Usage("this operation takes an operand".into()));
    Ok(match op {
        Local::Add => binary(ZipOp::Add)?,
        Local::Sub => binary(ZipOp::Sub)?,
        Local::Scale(c) => unary()?.map(|x| dev.affine(x, W::from_i64(*c), W::from_i64(0))),
        Local::Offset(c) => offset(dev, me, unary()?, *c),
        Local::Reshape(_) | Local::Low => unary()?.map(|x| dev.copy(x)),
        Local::Gather(map, fill) => {
            let x = unary()?;
            let fill = |yes: bool| W::from_i64(if yes { *fill } else { 0 });
            Pair(dev.gather(&x.0, map, fill(me == 0)), dev.gather(&x.1, map, fill(me == 2)))
        }
        Local::Concat { outer, widths, .. } => {
            let first: Vec<_> = xs.iter().map(|x| &x.0).collect();
            let second: Vec<_> = xs.iter().map(|x| &x.1).collect();
            Pair(dev.concat(&first, *outer, widths), dev.concat(&second, *outer, widths))
        }
        Local::WindowSum(windows) => unary()?.map(|x| dev.window_sum(x, windows)),
    })
}

/// A local operation on shares of one width.
pub(crate) fn local<D: Device>(dev: &D, me: usize, op: &Local<'_>, xs: &[&Shared<D>]) -> Result<Shared<D>> {
    let shapes: Vec<&Shape> = xs.iter().map(|x| &x.shape).collect();
    let shape = crate::fit::local_shape(op, &shapes)?;
    if let (Local::Low, [x]) = (op, xs) {
        let x = x.as_wide()?;
        return Ok(Shared::narrow(shape, Pair(dev.low(&x.0), dev.low(&x.1))));
    }
    if let (Local::Reshape(_), [x]) = (op, xs) {
        return Ok(Shared { shape, data: Arc::clone(&x.data) });
    }
    if xs.iter().all(|x| x.width() == Width::Narrow) {
        let pairs = xs.iter().map(|x| x.as_narrow()).collect::<Result<Vec<_>>>()?;
        Ok(Shared::narrow(shape, apply(dev, me, op, &pairs)?))
    } else {
        let pairs = xs.iter().map(|x| x.as_wide()).collect::<Result<Vec<_>>>()?;
        Ok(Shared::wide(shape, apply(dev, me, op, &pairs)?))
    }
}
