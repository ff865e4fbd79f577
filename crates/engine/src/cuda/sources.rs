//! The kernels' sources, and how they are compiled.

use super::device::Precision;

const PARTS: [&str; 6] = [
    include_str!("kernels/port.cuh"),
    include_str!("kernels/common.cuh"),
    include_str!("kernels/gemm.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/norm.cu"),
    include_str!("kernels/tensor.cu"),
];

/// All kernels of a precision, in the order of the sources.
pub(super) fn names(precision: Precision) -> Vec<&'static str> {
    let mut names = Vec::new();
    // What is under `#if FP16`.
    let (mut depth, mut shown) = (0, true);
    for line in PARTS.iter().flat_map(|part| part.lines()) {
        match line.trim() {
            "#if FP16" => (depth, shown) = (1, precision == Precision::F16),
            "#else" if depth == 1 => shown = !shown,
            "#endif" if depth == 1 => (depth, shown) = (0, true),
            _ => {}
        }
        if shown
            && let Some(name) = line.strip_prefix("KERNEL(").or_else(|| line.strip_prefix("CONVERT("))
            && let Some((name, _)) = name.split_once(',')
        {
            names.push(name);
        }
    }
    names
}

/// One source of the wanted kernels: compiling takes time, and a graph needs a few.
pub(super) fn source(precision: Precision, wanted: &[&str]) -> String {
    let mut source = String::new();
    for name in names(precision) {
        source.push_str(&format!("#define WANTED_{name} {}\n", u8::from(wanted.contains(&name))));
    }
    for part in PARTS {
        source.push_str(part);
    }
    source
}

/// The compiler's options for a compute capability: for the machine's own code, or for code that the driver translates.
pub(super) fn options(precision: Precision, capability: (i32, i32), own: bool) -> [String; 3] {
    let kind = if own { "sm" } else { "compute" };
    [
        format!("--gpu-architecture={kind}_{}{}", capability.0, capability.1),
        format!("-DFP16={}", u8::from(precision == Precision::F16)),
        "--std=c++17".to_owned(),
    ]
}
