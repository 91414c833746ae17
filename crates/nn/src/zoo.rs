//! The networks of the papers, built in Rust with seeded weights, for measuring and testing where trained weights are
//! not to be had. Shapes follow CryptGPU (ePrint 2021/533, section 5.1 and appendix) and torchvision.
//!
//! Weights keep the variance of activations (He et al., 2015); batch norms have statistics near zero and one, and the
//! last one of each residual branch a small scale, so that activations stay within a few units at any depth.

use crate::graph::{Attribute, Dim, Graph, Node};
use crate::tensor::{Constant, Tensor};
use sha2::{Digest, Sha256};
use sordino_ring::PrgKey;

/// Pooling where the original network takes maxima.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// As the three-server papers do.
    Average,
    /// As the original networks do.
    Max,
}

/// An entry of the zoo.
pub struct Entry {
    /// Name for [`build`].
    pub name: &'static str,
    /// Channels, height, width.
    pub input: [usize; 3],
    /// One line.
    pub about: &'static str,
    build: fn(&mut Build) -> String,
}

/// All networks.
pub const NETWORKS: &[Entry] = &[
    Entry {
        name: "lenet",
        input: [1, 28, 28],
        about: "LeNet for MNIST: 2 convolutions, 2 fully connected",
        build: lenet,
    },
    Entry {
        name: "alexnet-cifar10",
        input: [3, 32, 32],
        about: "AlexNet, last pool dropped, FC 256-256-10",
        build: |b| alexnet_small(b, false),
    },
    Entry {
        name: "alexnet-tinyimagenet",
        input: [3, 64, 64],
        about: "AlexNet, FC 1024-1024-200",
        build: |b| alexnet_small(b, true),
    },
    Entry { name: "alexnet-imagenet", input: [3, 224, 224], about: "AlexNet, 61 M weights", build: alexnet },
    Entry {
        name: "vgg16-cifar10",
        input: [3, 32, 32],
        about: "VGG-16, FC 256-256-10",
        build: |b| vgg16(b, [256, 256, 10], false),
    },
    Entry {
        name: "vgg16-tinyimagenet",
        input: [3, 64, 64],
        about: "VGG-16, FC 512-512-200",
        build: |b| vgg16(b, [512, 512, 200], false),
    },
    Entry {
        name: "vgg16-imagenet",
        input: [3, 224, 224],
        about: "VGG-16 with a 2x2 average pool before the first FC",
        build: |b| vgg16(b, [4096, 4096, 1000], true),
    },
    Entry {
        name: "resnet20-cifar10",
        input: [3, 32, 32],
        about: "ResNet-20 for CIFAR-10, with batch norm",
        build: resnet_small,
    },
    Entry { name: "resnet18", input: [3, 224, 224], about: "ResNet-18", build: |b| resnet(b, [2, 2, 2, 2], false) },
    Entry { name: "resnet50", input: [3, 224, 224], about: "ResNet-50", build: |b| resnet(b, [3, 4, 6, 3], true) },
    Entry { name: "resnet101", input: [3, 224, 224], about: "ResNet-101", build: |b| resnet(b, [3, 4, 23, 3], true) },
    Entry { name: "resnet152", input: [3, 224, 224], about: "ResNet-152", build: |b| resnet(b, [3, 8, 36, 3], true) },
    Entry { name: "squeezenet1.1", input: [3, 224, 224], about: "SqueezeNet 1.1", build: squeezenet },
    Entry { name: "densenet121", input: [3, 224, 224], about: "DenseNet-121", build: densenet121 },
];

/// Builds a network; `None` if no network has that name.
#[must_use]
pub fn build(name: &str, seed: u64, pool: Pool) -> Option<Graph> {
    let entry = NETWORKS.iter().find(|e| e.name == name)?;
    let [c, h, w] = entry.input;
    let dims = vec![Dim::Symbol("N".into()), Dim::Fixed(c), Dim::Fixed(h), Dim::Fixed(w)];
    let graph = Graph { name: name.into(), opset: 13, inputs: vec![("input".into(), dims)], ..Graph::default() };
    let mut b = Build { graph, seed, pool, channels: [("input".to_string(), c)].into() };
    let output = (entry.build)(&mut b);
    b.graph.outputs.push(output);
    Some(b.graph)
}

struct Build {
    graph: Graph,
    seed: u64,
    pool: Pool,
    channels: std::collections::HashMap<String, usize>,
}

impl Build {
    /// Normal numbers, a stream of their own for each name.
    fn normal(&self, name: &str, n: usize) -> Vec<f32> {
        let digest = Sha256::new().chain_update(self.seed.to_le_bytes()).chain_update(name).finalize();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        let words: Vec<u32> = PrgKey::new(key).words(2 * n.div_ceil(2));
        let unit = |w: u32| (f64::from(w) + 0.5) / 4_294_967_296.0;
        let pairs = words.chunks_exact(2).flat_map(|w| {
            // Box and Muller.
            let (r, angle) = ((-2.0 * unit(w[0]).ln()).sqrt(), std::f64::consts::TAU * unit(w[1]));
            [r * angle.cos(), r * angle.sin()]
        });
        pairs.take(n).map(|v| v as f32).collect()
    }

    fn weight(&mut self, name: &str, dims: &[usize], mean: f32, deviation: f32) -> String {
        let n = dims.iter().product();
        let data = self.normal(name, n).into_iter().map(|v| mean + deviation * v).collect();
        self.graph.constants.insert(name.into(), Constant::Float(Tensor::new(dims, data).into()));
        name.into()
    }

    fn node(&mut self, op: &str, inputs: Vec<String>, attributes: &[(&str, Attribute)], channels: usize) -> String {
        let name = format!("{}_{}", op.to_lowercase(), self.graph.nodes.len());
        self.channels.insert(name.clone(), channels);
        self.graph.nodes.push(Node {
            name: name.clone(),
            op: op.into(),
            inputs,
            outputs: vec![name.clone()],
            attributes: attributes.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect(),
        });
        name
    }

    fn like(&mut self, op: &str, inputs: &[&str]) -> String {
        let c = self.channels.get(inputs[0]).copied().unwrap_or(0);
        self.node(op, inputs.iter().map(|s| (*s).to_string()).collect(), &[], c)
    }

    fn window(k: usize, stride: usize, pad: usize) -> Vec<(&'static str, Attribute)> {
        let pair = |v: usize| Attribute::Ints(vec![v as i64; 2]);
        vec![("kernel_shape", pair(k)), ("strides", pair(stride)), ("pads", Attribute::Ints(vec![pad as i64; 4]))]
    }

    fn conv(&mut self, x: &str, out: usize, k: usize, stride: usize, pad: usize, bias: bool) -> String {
        let c = self.channels.get(x).copied().unwrap_or(0);
        let at = self.graph.nodes.len();
        let w = self.weight(&format!("conv{at}.weight"), &[out, c, k, k], 0.0, (2.0 / (c * k * k) as f32).sqrt());
        let mut inputs = vec![x.to_string(), w];
        if bias {
            inputs.push(self.weight(&format!("conv{at}.bias"), &[out], 0.0, 0.05));
        }
        self.node("Conv", inputs, &Self::window(k, stride, pad), out)
    }

    fn norm(&mut self, x: &str, gamma: f32) -> String {
        let c = self.channels.get(x).copied().unwrap_or(0);
        let at = self.graph.nodes.len();
        let scale = self.weight(&format!("norm{at}.scale"), &[c], gamma, gamma * 0.1);
        let shift = self.weight(&format!("norm{at}.shift"), &[c], 0.0, 0.1);
        let mean = self.weight(&format!("norm{at}.mean"), &[c], 0.0, 0.1);
        let var = format!("norm{at}.variance");
        let data = self.normal(&var, c).into_iter().map(|v| (1.0 + 0.1 * v).max(0.5)).collect();
        self.graph.constants.insert(var.clone(), Constant::Float(Tensor::new(&[c], data).into()));
        self.node("BatchNormalization", vec![x.to_string(), scale, shift, mean, var], &[], c)
    }

    fn relu(&mut self, x: &str) -> String {
        self.like("Relu", &[x])
    }

    fn pool(&mut self, x: &str, k: usize, stride: usize, pad: usize) -> String {
        let pool = self.pool;
        self.pool_by(x, pool, k, stride, pad)
    }

    fn pool_by(&mut self, x: &str, pool: Pool, k: usize, stride: usize, pad: usize) -> String {
        let c = self.channels.get(x).copied().unwrap_or(0);
        let mut attributes = Self::window(k, stride, pad);
        if pool == Pool::Max {
            return self.node("MaxPool", vec![x.to_string()], &attributes, c);
        }
        attributes.push(("count_include_pad", Attribute::Int(1)));
        self.node("AveragePool", vec![x.to_string()], &attributes, c)
    }

    fn flatten(&mut self, x: &str, features: usize) -> String {
        self.node("Flatten", vec![x.to_string()], &[("axis", Attribute::Int(1))], features)
    }

    fn full(&mut self, x: &str, out: usize) -> String {
        let c = self.channels.get(x).copied().unwrap_or(0);
        let at = self.graph.nodes.len();
        let w = self.weight(&format!("full{at}.weight"), &[out, c], 0.0, (2.0 / c as f32).sqrt());
        let b = self.weight(&format!("full{at}.bias"), &[out], 0.0, 0.05);
        self.node("Gemm", vec![x.to_string(), w, b], &[("transB", Attribute::Int(1))], out)
    }

    fn head(&mut self, x: &str, sizes: [usize; 3]) -> String {
        let mut x = self.full(x, sizes[0]);
        x = self.relu(&x);
        x = self.full(&x, sizes[1]);
        x = self.relu(&x);
        self.full(&x, sizes[2])
    }
}

fn lenet(b: &mut Build) -> String {
    let mut x = "input".to_string();
    for out in [20, 50] {
        x = b.conv(&x, out, 5, 1, 0, true);
        x = b.relu(&x);
        x = b.pool(&x, 2, 2, 0);
    }
    x = b.flatten(&x, 800);
    x = b.full(&x, 500);
    x = b.relu(&x);
    b.full(&x, 10)
}

fn alexnet_small(b: &mut Build, tiny: bool) -> String {
    let mut x = b.conv("input", 96, 11, 4, 9, true);
    x = b.relu(&x);
    x = b.pool(&x, 3, 2, 0);
    x = b.conv(&x, 256, 5, 1, 1, true);
    x = b.relu(&x);
    x = b.pool(&x, 2, 1, 0);
    for out in [384, 384, 256] {
        x = b.conv(&x, out, 3, 1, 1, true);
        x = b.relu(&x);
    }
    if tiny {
        x = b.pool(&x, 3, 2, 0);
        x = b.flatten(&x, 1024);
        return b.head(&x, [1024, 1024, 200]);
    }
    x = b.flatten(&x, 256);
    b.head(&x, [256, 256, 10])
}

fn alexnet(b: &mut Build) -> String {
    let mut x = "input".to_string();
    let layers = [
        (64, 11, 4, 2, true),
        (192, 5, 1, 2, true),
        (384, 3, 1, 1, false),
        (256, 3, 1, 1, false),
        (256, 3, 1, 1, true),
    ];
    for (out, k, stride, pad, pool) in layers {
        x = b.conv(&x, out, k, stride, pad, true);
        x = b.relu(&x);
        if pool {
            x = b.pool(&x, 3, 2, 0);
        }
    }
    x = b.flatten(&x, 9216);
    b.head(&x, [4096, 4096, 1000])
}

fn vgg16(b: &mut Build, head: [usize; 3], imagenet: bool) -> String {
    let mut x = "input".to_string();
    for (out, count) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)] {
        for _ in 0..count {
            x = b.conv(&x, out, 3, 1, 1, true);
            x = b.relu(&x);
        }
        x = b.pool(&x, 2, 2, 0);
    }
    let features = match (imagenet, head[2]) {
        (true, _) => {
            x = b.pool_by(&x, Pool::Average, 2, 2, 0);
            4608
        }
        (false, 10) => 512,
        _ => 2048,
    };
    x = b.flatten(&x, features);
    b.head(&x, head)
}

fn resnet(b: &mut Build, blocks: [usize; 4], bottleneck: bool) -> String {
    let mut x = b.conv("input", 64, 7, 2, 3, false);
    x = b.norm(&x, 1.0);
    x = b.relu(&x);
    x = b.pool(&x, 3, 2, 1);
    let expansion = if bottleneck { 4 } else { 1 };
    for (stage, (width, count)) in [64, 128, 256, 512].into_iter().zip(blocks).enumerate() {
        for block in 0..count {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            x = residual(b, &x, width, stride, block == 0 && (stage > 0 || bottleneck), bottleneck);
        }
    }
    x = b.like("GlobalAveragePool", &[&x]);
    x = b.flatten(&x, 512 * expansion);
    b.full(&x, 1000)
}

/// A residual block; its shortcut is a convolution where it must change the size.
fn residual(b: &mut Build, x: &str, width: usize, stride: usize, project: bool, bottleneck: bool) -> String {
    let shortcut = if project {
        let y = b.conv(x, width * if bottleneck { 4 } else { 1 }, 1, stride, 0, false);
        b.norm(&y, 1.0)
    } else {
        x.to_string()
    };
    let kernels: &[(usize, usize, usize)] = if bottleneck {
        &[(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
    } else {
        &[(width, 3, stride), (width, 3, 1)]
    };
    let mut y = x.to_string();
    for (i, &(out, k, stride)) in kernels.iter().enumerate() {
        y = b.conv(&y, out, k, stride, k / 2, false);
        let last = i + 1 == kernels.len();
        y = b.norm(&y, if last { 0.2 } else { 1.0 });
        if !last {
            y = b.relu(&y);
        }
    }
    y = b.like("Add", &[&y, &shortcut]);
    b.relu(&y)
}

/// ResNet-20 for 32x32 pictures (He et al. 2016, section 4.2, with projection shortcuts).
fn resnet_small(b: &mut Build) -> String {
    let mut x = b.conv("input", 16, 3, 1, 1, false);
    x = b.norm(&x, 1.0);
    x = b.relu(&x);
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..3 {
            let down = block == 0 && stage > 0;
            x = residual(b, &x, width, if down { 2 } else { 1 }, down, false);
        }
    }
    x = b.like("GlobalAveragePool", &[&x]);
    x = b.flatten(&x, 64);
    b.full(&x, 10)
}

fn squeezenet(b: &mut Build) -> String {
    let mut x = b.conv("input", 64, 3, 2, 0, true);
    x = b.relu(&x);
    x = b.pool(&x, 3, 2, 0);
    let fires = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)];
    for (i, (squeeze, expand)) in fires.into_iter().enumerate() {
        if i == 2 || i == 4 {
            x = b.pool(&x, 3, 2, 0);
        }
        let s = b.conv(&x, squeeze, 1, 1, 0, true);
        let s = b.relu(&s);
        let (one, three) = (b.conv(&s, expand, 1, 1, 0, true), b.conv(&s, expand, 3, 1, 1, true));
        let (one, three) = (b.relu(&one), b.relu(&three));
        x = b.node("Concat", vec![one, three], &[("axis", Attribute::Int(1))], 2 * expand);
    }
    x = b.conv(&x, 1000, 1, 1, 0, true);
    x = b.relu(&x);
    x = b.like("GlobalAveragePool", &[&x]);
    b.flatten(&x, 1000)
}

fn densenet121(b: &mut Build) -> String {
    let mut x = b.conv("input", 64, 7, 2, 3, false);
    x = b.norm(&x, 1.0);
    x = b.relu(&x);
    x = b.pool(&x, 3, 2, 1);
    let mut channels = 64;
    for (stage, count) in [6, 12, 24, 16].into_iter().enumerate() {
        for _ in 0..count {
            let mut y = b.norm(&x, 1.0);
            y = b.relu(&y);
            y = b.conv(&y, 128, 1, 1, 0, false);
            y = b.norm(&y, 1.0);
            y = b.relu(&y);
            y = b.conv(&y, 32, 3, 1, 1, false);
            channels += 32;
            x = b.node("Concat", vec![x, y], &[("axis", Attribute::Int(1))], channels);
        }
        x = b.norm(&x, 1.0);
        x = b.relu(&x);
        if stage < 3 {
            channels /= 2;
            x = b.conv(&x, channels, 1, 1, 0, false);
            // Transitions average in the original network too.
            x = b.pool_by(&x, Pool::Average, 2, 2, 0);
        }
    }
    x = b.like("GlobalAveragePool", &[&x]);
    x = b.flatten(&x, channels);
    b.full(&x, 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_published_ones() {
        let millions =
            |name: &str| build(name, 0, Pool::Max).map(|g| (g.parameters() as f64 / 1e5).round() / 10.0).unwrap_or(0.0);
        assert_eq!(millions("alexnet-imagenet"), 61.1);
        assert_eq!(millions("squeezenet1.1"), 1.2);
        // Batch norm statistics are counted too: 25.6 and 8.0 M without.
        assert_eq!((millions("resnet50"), millions("densenet121")), (25.6, 8.1));
    }

    #[test]
    fn every_network_imports_and_is_seeded() -> crate::Result<()> {
        for entry in NETWORKS.iter().filter(|e| !e.name.contains("imagenet") || e.name.contains("tiny")) {
            let Some(graph) = build(entry.name, 3, Pool::Average) else { continue };
            let net = crate::import(&graph, 2)?;
            assert_eq!(net.shapes[net.outputs[0].1][0], 2, "{}", entry.name);
        }
        assert_eq!(build("lenet", 1, Pool::Max), build("lenet", 1, Pool::Max));
        assert_ne!(build("lenet", 1, Pool::Max), build("lenet", 2, Pool::Max));
        assert!(build("nothing", 0, Pool::Max).is_none());
        Ok(())
    }
}
