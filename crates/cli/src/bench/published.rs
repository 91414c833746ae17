//! Figures from papers, for comparison. Semi-honest; those with three servers have average pooling for max pooling.
//!
//! CryptGPU: Tan, Knott, Tian, Wu, "CryptGPU: Fast Privacy-Preserving Machine Learning on the GPU", IEEE S&P 2021
//! (ePrint 2021/533), tables I to III: one V100 per server, 1.25 GB/s, 0.2 ms. Its traffic as published leaves out the
//! openings of its binary AND gates. Falcon's figures are those of the same tables: 36 cores per server.

/// Seconds and megabytes.
pub(crate) type Figure = (f64, f64);

/// CryptGPU, one image (table I).
pub(crate) fn cryptgpu(network: &str) -> Option<Figure> {
    Some(match network {
        "lenet" => (0.38, 3.00),
        "alexnet-cifar10" => (0.91, 2.43),
        "vgg16-cifar10" => (2.14, 56.2),
        "alexnet-tinyimagenet" => (0.95, 13.97),
        "vgg16-tinyimagenet" => (2.30, 224.5),
        "alexnet-imagenet" => (1.52, 240.0),
        "vgg16-imagenet" => (9.44, 2750.0),
        "resnet50" => (9.31, 3080.0),
        "resnet101" => (17.62, 4640.0),
        "resnet152" => (25.77, 6560.0),
        _ => return None,
    })
}

/// Falcon, one image (table I of CryptGPU).
pub(crate) fn falcon(network: &str) -> Option<Figure> {
    Some(match network {
        "lenet" => (0.038, 2.29),
        "alexnet-cifar10" => (0.11, 4.02),
        "vgg16-cifar10" => (1.44, 40.45),
        "alexnet-tinyimagenet" => (0.34, 16.23),
        "vgg16-tinyimagenet" => (8.61, 161.71),
        _ => return None,
    })
}

/// CrypTFlow, one image (table I of CryptGPU).
pub(crate) fn cryptflow(network: &str) -> Option<Figure> {
    Some(match network {
        "resnet50" => (25.9, 6900.0),
        "resnet101" => (40.0, 10500.0),
        "resnet152" => (60.0, 14500.0),
        _ => return None,
    })
}

/// CryptGPU, batches (tables II and III).
pub(crate) fn cryptgpu_batch(network: &str, batch: usize) -> Option<Figure> {
    Some(match (network, batch) {
        ("alexnet-cifar10", 64) => (1.09, 160.0),
        ("vgg16-cifar10", 64) => (11.76, 3600.0),
        ("resnet50", 8) => (42.99, 24700.0),
        ("resnet101", 8) => (72.99, 37200.0),
        ("resnet152", 8) => (105.20, 52500.0),
        _ => return None,
    })
}

/// One iteration of training: CryptGPU and Falcon (table IV of CryptGPU), Piranha (P-Falcon without preprocessing, USENIX
/// Security 2022).
pub(crate) fn training(network: &str) -> [Option<Figure>; 3] {
    match network {
        "lenet" => [Some((2.21, 1140.0)), Some((14.90, 346.0)), Some((0.888, 417.0))],
        "alexnet-cifar10" => [Some((2.91, 1370.0)), Some((62.37, 621.0)), Some((1.419, 581.0))],
        "vgg16-cifar10" => [Some((12.14, 7550.0)), Some((360.83, 1780.0)), Some((7.47, 4260.0))],
        "alexnet-tinyimagenet" => [Some((11.30, 6980.0)), Some((415.67, 2350.0)), None],
        "vgg16-tinyimagenet" => [Some((13.89, 7590.0)), Some((359.60, 1780.0)), None],
        _ => [None; 3],
    }
}

/// Accuracies after private and after plaintext training, in percent (table VII of CryptGPU): LeNet on MNIST, five epochs;
/// AlexNet on CIFAR-10, one.
pub(crate) fn learning(network: &str) -> Option<(f64, f64)> {
    Some(match network {
        "lenet" => (93.97, 93.34),
        "alexnet-cifar10" => (59.60, 59.77),
        _ => return None,
    })
}

/// Two parties, one image over a LAN of 377 MB/s: CrypTFlow2 (ePrint 2020/1002, table 7; its table 4 has ReLU layers alone, over Z/2^l, and
/// by garbled circuits) and Cheetah (ePrint 2022/207, table 7). Figures of whole networks are quoted from memory and to be checked against the papers.
pub(super) fn two_party(name: &str) -> Vec<(&'static str, Figure)> {
    let gib = |n: f64| (1_073.741_824 * n).round();
    // Whole networks, then their ReLU layers alone.
    let of = |[cheetah, he, ot]: [Figure; 3], [relus, garbled]: [Figure; 2]| {
        let whole = [("Cheetah", cheetah), ("CrypTFlow2 HE", he), ("CrypTFlow2 OT", ot)];
        whole.into_iter().chain([("CrypTFlow2 ReLUs", relus), ("garbled ReLUs", garbled)]).collect()
    };
    match name {
        "squeezenet1.1" => {
            of([(16.0, 500.0), (59.2, gib(5.27)), (44.3, gib(26.07))], [(3.5, gib(1.15)), (26.4, gib(7.63))])
        }
        "resnet50" => {
            of([(80.3, 2300.0), (545.8, gib(32.43)), (619.4, gib(370.84))], [(16.4, gib(5.23)), (136.5, gib(39.19))])
        }
        "densenet121" => {
            of([(79.3, 2400.0), (463.2, gib(35.56)), (371.4, gib(217.19))], [(24.8, gib(8.21)), (199.6, gib(56.57))])
        }
        _ => vec![],
    }
}

/// ReLU layers of a network by two parties over rings of 2^l, by CrypTFlow2's protocols or by garbled circuits: its table 4. Of MiniONN's and of
/// ResNet-32 its table 5, quoted from memory and to be checked: all that is not linear there, where the circuits are Delphi's (USENIX Security 2020), over a
/// prime; they are several times what ReLUs alone send by either paper's formulas.
#[cfg(feature = "baseline")]
pub(super) fn relus(name: &str, garbled: bool) -> Option<Figure> {
    let gib = |n: f64| (1_073.741_824 * n).round();
    let [paper, circuits] = match name {
        "minionn-cifar10" => [(1.0, gib(0.28)), (30.2, gib(3.15))],
        "resnet32-cifar100" => [(2.4, gib(0.59)), (52.9, gib(5.51))],
        _ => {
            let system = if garbled { "garbled ReLUs" } else { "CrypTFlow2 ReLUs" };
            return two_party(name).into_iter().find(|(known, _)| *known == system).map(|(_, figure)| figure);
        }
    };
    Some(if garbled { circuits } else { paper })
}
