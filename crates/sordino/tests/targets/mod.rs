//! One function for each parser of foreign bytes: it must return, whatever it is given, and what is accepted must make sense.

use sordino::checkpoint;
use sordino::inputs::{Preprocess, read};
use sordino::model::Calibration;
use sordino::tls::Hello;
use sordino_net::{Endpoint, HEADER_BYTES, Header, LinkModel, Patience, Segment, StreamReceiver};
use sordino_nn::{Options, Ranges, Tensor, compile, for_inference, import};
use std::path::Path;
use std::time::Duration;

/// A model: read, written again alike, and compiled if it is small.
pub(crate) fn onnx(bytes: &[u8]) {
    use sordino_nn::onnx;
    let Ok(graph) = onnx::read(bytes) else { return };
    let again = onnx::read(&onnx::write(&graph));
    assert!(again.is_ok_and(|g| g.nodes.len() == graph.nodes.len()));
    let Ok(net) = import(&graph, 2) else { return };
    let elements: usize = net.shapes.iter().map(|s| s.iter().product::<usize>()).sum();
    if elements > 1 << 20 || net.macs() > 1 << 26 {
        return;
    }
    let passed = for_inference(&net);
    let inputs = net.inputs.iter().map(|&i| Tensor::new(&net.shapes[i], vec![0.5; net.shapes[i].iter().product()]));
    if let Ok(ranges) = Ranges::calibrate(&passed, &[inputs.collect()]) {
        let _ = compile(&passed, &ranges, &Options::default());
    }
}

/// A frame of 64 bytes.
pub(crate) fn frame(bytes: &[u8]) {
    if let Some(header) = bytes.first_chunk::<HEADER_BYTES>()
        && let Ok(parsed) = Header::decode(header)
    {
        assert_eq!(parsed.encode(), *header);
    }
    let second = Duration::from_secs(1);
    let receiver = StreamReceiver::new(Endpoint(1), bytes, Patience::new(second, second, LinkModel::UNLIMITED));
    if let Ok(frame) = receiver.recv(&[Segment::Wide(8)]) {
        assert_eq!(frame.header.payload, 64);
    }
}

/// A dialler's greeting.
pub(crate) fn hello(bytes: &[u8]) {
    if let Some(bytes) = bytes.first_chunk::<26>()
        && let Some(hello) = Hello::decode(bytes)
    {
        assert_eq!(hello.encode(), *bytes);
    }
}

/// Writes bytes where a parser wants a file.
fn with_file(name: &str, bytes: &[u8], parse: impl FnOnce(&Path)) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let at = folder.path().join(name);
    if std::fs::write(&at, bytes).is_ok() {
        parse(&at);
    }
}

fn samples(name: &str, bytes: &[u8], dims: &[usize]) {
    with_file(name, bytes, |path| {
        for x in read(&[path.into()], dims, &Preprocess::default()).unwrap_or_default() {
            assert_eq!(x.data.len(), dims[1..].iter().product::<usize>());
        }
    });
}

/// A NumPy array or archive.
pub(crate) fn npy(bytes: &[u8]) {
    samples(if bytes.starts_with(b"PK") { "x.npz" } else { "x.npy" }, bytes, &[1, 2, 2]);
}

/// MNIST's format.
pub(crate) fn idx(bytes: &[u8]) {
    samples("x-idx3-ubyte.gz", bytes, &[1, 2, 2]);
}

/// A PNG or JPEG.
pub(crate) fn picture(bytes: &[u8]) {
    samples("x.png", bytes, &[1, 3, 4, 4]);
}

/// Ranges of a model's values.
pub(crate) fn calibration(bytes: &[u8]) {
    with_file("m.calibration.json", bytes, |path| drop(Calibration::read(path)));
}

/// What says how pictures are read.
pub(crate) fn preprocess(bytes: &[u8]) {
    with_file("m.toml", bytes, |path| drop(Preprocess::default().or_beside(&path.with_extension("onnx"))));
}

/// A server's checkpoint: found sound or not.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    for server in 0..3 {
        let path = folder.path().join(format!("server-{server}-000000001.checkpoint"));
        let _ = std::fs::write(path, bytes);
    }
    let _ = checkpoint::latest(folder.path(), usize::MAX);
}

/// What a host offers to a client: what is taken can be planned.
pub(crate) fn offer(bytes: &[u8]) {
    if let Ok(offer) = sordino::two::Offer::read(bytes) {
        let _ = sordino::price::Price::of::<sordino::mpc::two::Declared>(&offer.program);
    }
}
