//! Checks on an ONNX graph before tract sees it, so that what is wrong is said in the model's own terms, and what could
//! make the import panic or run for ever is refused.

use std::collections::HashSet;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, ValueInfoProto};

use super::{DType, Port, Signature, rules};
use maskgit_core::{Error, Result};

/// The largest published model of the family has some 3,000 nodes. The importer compares the name of each node with those of
/// all before it, so that its time grows with the square of their number: some seconds for as many as this.
const MAX_NODES: usize = 1 << 13;

/// The versions of ONNX's operators that the importer knows.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=25;

/// Where the signature's ports are in the graph: for each port, the index of the graph's input or output.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
}

/// Checks a model's structure and its ports.
pub(super) fn check(model: &ModelProto, signature: &Signature, operators: &OnnxOpRegister) -> Result<Places> {
    let Some(graph) = &model.graph else {
        return Err(Error::engine("it is not an ONNX model: it has no graph"));
    };
    if !model.functions.is_empty() {
        return Err(Error::engine("the model has functions of its own, which are not supported"));
    }
    opset(model)?;
    structure(graph, operators)?;
    let initialized: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    // Old files list the weights among the inputs.
    let inputs: Vec<_> = graph.input.iter().filter(|v| !initialized.contains(v.name.as_str())).collect();
    let outputs: Vec<_> = graph.output.iter().collect();
    Ok(Places {
        inputs: ports("input", &signature.inputs, &inputs)?,
        outputs: ports("output", &signature.outputs, &outputs)?,
    })
}

/// The version of the operators is one whose meaning is known.
fn opset(model: &ModelProto) -> Result<()> {
    let main = model.opset_import.iter().filter(|opset| matches!(opset.domain.as_str(), "" | "ai.onnx"));
    let versions: Vec<i64> = main.map(|opset| opset.version).collect();
    match versions.as_slice() {
        [version] if OPSETS.contains(version) => Ok(()),
        [version] => Err(Error::engine(format!(
            "the graph is written for version {version} of ONNX's operators; {} to {} are known: export it for one of \
             them",
            OPSETS.start(),
            OPSETS.end()
        ))),
        _ => Err(Error::engine(format!(
            "the graph names {} versions of ONNX's operators; it must be one",
            versions.len()
        ))),
    }
}

/// Every value is defined once, and before it is used; every operator is known; there is no control flow.
///
/// A loop in a hostile graph could run for ever, and the models of this family need none.
fn structure(graph: &GraphProto, operators: &OnnxOpRegister) -> Result<()> {
    if graph.node.len() > MAX_NODES {
        return Err(Error::engine(format!(
            "the graph has {} nodes; at most {MAX_NODES} are allowed",
            graph.node.len()
        )));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(Error::engine("the graph has sparse weights, which are not supported"));
    }
    let mut defined = HashSet::new();
    for tensor in &graph.initializer {
        if !defined.insert(tensor.name.as_str()) {
            return Err(Error::engine(format!("the graph has two weights called \"{}\"", clip(&tensor.name))));
        }
    }
    defined.extend(graph.input.iter().map(|v| v.name.as_str()));
    for (index, node) in graph.node.iter().enumerate() {
        let what = operator(node, operators).and_then(|()| values(node, &mut defined));
        what.map_err(|what| {
            let (name, op_type) = (clip(&node.name), clip(&node.op_type));
            Error::engine(format!("node {index} (\"{name}\", {op_type}){what}"))
        })?;
    }
    for output in &graph.output {
        if !defined.contains(output.name.as_str()) {
            return Err(Error::engine(format!("nothing gives the graph's output \"{}\"", clip(&output.name))));
        }
    }
    Ok(())
}

/// Checks a node's operator; the error goes on after the node's name.
fn operator(node: &NodeProto, operators: &OnnxOpRegister) -> std::result::Result<(), String> {
    if node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()) {
        return Err(": control flow is not supported".to_owned());
    }
    // The importer looks at an operator's name only.
    if !matches!(node.domain.as_str(), "" | "ai.onnx") {
        return Err(format!(" is of the domain \"{}\", which is not supported", clip(&node.domain)));
    }
    if !rules::is_known(&node.op_type) || !operators.0.contains_key(&node.op_type) {
        return Err(": the operator is not supported".to_owned());
    }
    rules::check(node)
}

/// Checks a node's inputs and adds its outputs; the error goes on after the node's name.
fn values<'a>(node: &'a NodeProto, defined: &mut HashSet<&'a str>) -> std::result::Result<(), String> {
    if let Some(name) = node.input.iter().find(|n| !n.is_empty() && !defined.contains(n.as_str())) {
        return Err(format!(" uses \"{}\", which nothing before it gives", clip(name)));
    }
    for name in node.output.iter().filter(|n| !n.is_empty()) {
        if !defined.insert(name.as_str()) {
            return Err(format!(" gives \"{}\", which exists already", clip(name)));
        }
    }
    Ok(())
}

/// Compares the graph's inputs or outputs with the signature's.
fn ports(what: &str, wanted: &[Port], found: &[&ValueInfoProto]) -> Result<Vec<usize>> {
    let mut places = Vec::with_capacity(wanted.len());
    for port in wanted {
        let Some(place) = found.iter().position(|v| v.name == port.name) else {
            return Err(Error::engine(format!("the graph has no {what} \"{}\"; it has {}", port.name, names(found))));
        };
        if let Some(info) = found.get(place) {
            declared(what, port, info)?;
        }
        places.push(place);
    }
    if found.len() != wanted.len() {
        let wanted: Vec<_> = wanted.iter().map(|p| format!("\"{}\"", p.name)).collect();
        return Err(Error::engine(format!(
            "the graph has the {what}s {}; it must have exactly {}",
            names(found),
            wanted.join(", ")
        )));
    }
    Ok(places)
}

fn names(found: &[&ValueInfoProto]) -> String {
    if found.is_empty() {
        return "none".to_owned();
    }
    let mut names: Vec<_> = found.iter().take(8).map(|v| format!("\"{}\"", clip(&v.name))).collect();
    if found.len() > names.len() {
        names.push("...".to_owned());
    }
    names.join(", ")
}

/// Compares what the graph declares of one port with the signature. Whatever it leaves open fits.
fn declared(what: &str, port: &Port, info: &ValueInfoProto) -> Result<()> {
    let name = &port.name;
    let Some(TypeValue::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Err(Error::engine(format!("the graph's {what} \"{name}\" has no type")));
    };
    let dtype = match port.dtype {
        DType::I64 => DataType::Int64,
        DType::F32 => DataType::Float,
    };
    if tensor.elem_type != dtype as i32 {
        let is = DataType::try_from(tensor.elem_type)
            .map_or_else(|_| format!("the unknown type {}", tensor.elem_type), |t| format!("{t:?}").to_lowercase());
        return Err(Error::engine(format!("the graph's {what} \"{name}\" is {is}; it must be {}", port.dtype)));
    }
    let Some(shape) = &tensor.shape else {
        return Ok(());
    };
    let fits = shape.dim.len() == port.shape.len()
        && shape.dim.iter().zip(&port.shape).all(|(dim, &size)| match dim.value {
            Some(DimValue::DimValue(v)) => usize::try_from(v) == Ok(size),
            _ => true,
        });
    if fits {
        return Ok(());
    }
    let is: Vec<_> = shape
        .dim
        .iter()
        .take(8)
        .map(|dim| match &dim.value {
            Some(DimValue::DimValue(v)) => v.to_string(),
            Some(DimValue::DimParam(p)) => clip(p).to_owned(),
            None => "?".to_owned(),
        })
        .collect();
    Err(Error::engine(format!(
        "the graph's {what} \"{name}\" has the shape [{}]; it must be {:?}",
        is.join(", "),
        port.shape
    )))
}

/// The first characters of a name from the file, which may be megabytes long.
fn clip(name: &str) -> &str {
    let end = name.char_indices().nth(80).map_or(name.len(), |(i, _)| i);
    name.get(..end).unwrap_or_default()
}
