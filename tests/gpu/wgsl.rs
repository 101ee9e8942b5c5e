//! Every shader, without an adapter: it parses and validates, and its bindings and parameters
//! are those that Rust declares.

use std::collections::BTreeMap;
use std::path::Path;

use bise::gpu::{Access, BindingKind, Kernel};
use bise::kernels::{self, BatchUniform, compositions};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, ScalarKind, StorageAccess, TypeInner};

/// A struct's size and its fields: name, offset, kind.
type Layout = (usize, Vec<(&'static str, usize, ScalarKind)>);

trait Kind {
    const KIND: ScalarKind;
}

impl Kind for u32 {
    const KIND: ScalarKind = ScalarKind::Uint;
}

impl Kind for f32 {
    const KIND: ScalarKind = ScalarKind::Float;
}

/// The layout of a Rust struct; the compiler checks that it has these fields of these types, and
/// no others but padding.
macro_rules! layout {
    ($of:ident { $($field:ident: $kind:ty),* $(; $padding:ident)? }) => {{
        // Fails to compile where a field is missing here or has another type.
        #[allow(unused_variables, reason = "only its types matter")]
        fn exhaustive(value: $of) {
            let $of { $($field,)* $($padding: _)? } = value;
            $(let $field: $kind = $field;)*
        }
        let _ = exhaustive;
        (size_of::<$of>(), vec![$((stringify!($field), std::mem::offset_of!($of, $field), <$kind as Kind>::KIND)),*])
    }};
}

/// The layouts of a kernel's uniforms, by name of the variable.
fn layouts(kernel: &str) -> BTreeMap<&'static str, Layout> {
    use kernels::attend::Params as Attend;
    use kernels::attend_reduce::Params as AttendReduce;
    use kernels::blend::Params as Blend;
    use kernels::embed::Params as Embed;
    use kernels::gain::Params as Gain;
    use kernels::linear::Params as Linear;
    use kernels::matmul_gated::Params as MatmulGated;
    use kernels::matvec_gated::Params as MatvecGated;
    use kernels::rms_norm::Params as RmsNorm;
    use kernels::rope_store::Params as RopeStore;
    use kernels::silu_mul::Params as SiluMul;
    use kernels::slerp_sums::Params as SlerpSums;
    let batch = layout!(BatchUniform { tokens: u32, position: u32, splits: u32, tiles_per_split: u32 });
    let params = match kernel {
        "attend" | "attend_many" | "attend_one" => layout!(Attend {
            kv_heads: u32,
            group: u32,
            half: u32,
            qkv_pitch: u32,
            out_pitch: u32,
            slots: u32,
            window: u32,
            scale: f32
        }),
        "attend_reduce" => layout!(AttendReduce { heads: u32, head_dim: u32, out_pitch: u32; padding }),
        "blend" => {
            layout!(Blend { groups: u32, part: u32, zero: u32, c0: f32, c1: f32; padding })
        }
        "embed" => layout!(Embed {
            first_row: u32, rows: u32, loads: u32, pitch: u32, scale_blocks: u32, loads_per_block: u32, width: u32; padding
        }),
        "gain" => layout!(Gain { pitch: u32, last: u32; padding }),
        "matvec" | "matmul" => layout!(Linear {
            first_row: u32,
            rows: u32,
            loads: u32,
            x_pitch: u32,
            y_pitch: u32,
            scale_blocks: u32,
            loads_per_block: u32,
            single: u32,
            add: u32;
            padding
        }),
        "matvec_gated" => layout!(MatvecGated {
            first_row: u32, rows: u32, loads: u32, x_pitch: u32, y_pitch: u32, scale_blocks: u32,
            loads_per_block: u32; padding
        }),
        "matmul_gated" => layout!(MatmulGated {
            first_row: u32, rows: u32, loads: u32, x_pitch: u32, y_pitch: u32, scale_blocks: u32,
            loads_per_block: u32; padding
        }),
        "rms_norm" => layout!(RmsNorm { width: u32, pitch: u32, last: u32, epsilon: f32 }),
        "rope_store" | "rope_store_f8" => {
            layout!(RopeStore { heads: u32, kv_heads: u32, half: u32, pitch: u32, slots: u32; padding })
        }
        "sample_adjust" | "sample_pick" => return BTreeMap::from([("choice", choice_layout())]),
        "silu_mul" => layout!(SiluMul { pitch: u32; padding }),
        "slerp_sums" => layout!(SlerpSums { loads: u32, first_block: u32, zero: u32; padding }),
        _ => return BTreeMap::new(),
    };
    BTreeMap::from([("batch", batch), ("params", params)])
}

/// The rules of a request, and behind them what a step adds.
fn choice_layout() -> Layout {
    use bise::steps::sampling::Rules;
    use kernels::sample_adjust::Choice;
    let (rules, mut fields) = layout!(Rules {
        greedy: u32,
        top_k: u32,
        top_p_low: u32,
        top_p_high: u32,
        min_weight: u32,
        bias: u32,
        penalties: u32,
        scale: f32,
        limit: f32,
        repetition: f32,
        reciprocal: f32,
        most: f32,
        frequency: f32,
        presence: f32
    });
    let (size, step) = layout!(Choice {
        vocab: u32, quads: u32, groups: u32, zero: u32, draw_low: u32, draw_high: u32; rules
    });
    assert_eq!((rules, std::mem::offset_of!(Choice, rules)), (step[0].1, 0));
    fields.extend(step);
    (size, fields)
}

fn parse(kernel: &Kernel) -> Result<naga::Module, String> {
    let source = kernel.source();
    let module = naga::front::wgsl::parse_str(&source).map_err(|e| e.emit_to_string(&source))?;
    // Subgroups where they are asked for, and nowhere else.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if kernel.constants.iter().any(|(name, _)| *name == "FOLD") {
        capabilities |= Capabilities::SUBGROUP;
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    validator.validate(&module).map_err(|e| e.emit_to_string(&source))?;
    Ok(module)
}

/// What is wrong with a kernel's interface.
fn interface_faults(kernel: &Kernel, module: &naga::Module) -> Vec<String> {
    let mut faults = Vec::new();
    match module.entry_points.as_slice() {
        [entry] if entry.name == kernel.name => {}
        other => faults.push(format!("{} entry points, none or not only {}", other.len(), kernel.name)),
    }
    for (name, _) in &kernel.constants {
        if !module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name)) {
            faults.push(format!("no override {name}"));
        }
    }
    let layouts = layouts(kernel.name);
    let mut bound: Vec<_> =
        module.global_variables.iter().filter_map(|(_, v)| Some((v.binding.as_ref()?, v))).collect();
    bound.sort_by_key(|(binding, _)| binding.binding);
    if bound.len() != kernel.bindings.len() {
        faults.push(format!("{} bindings, Rust declares {}", bound.len(), kernel.bindings.len()));
    }
    for (index, ((binding, variable), declared)) in bound.iter().zip(kernel.bindings).enumerate() {
        let name = variable.name.as_deref().unwrap_or_default();
        if binding.group != 0 || binding.binding as usize != index || name != declared.name {
            faults.push(format!("{binding:?} is {name}, Rust declares {} at {index}", declared.name));
        }
        let access = match variable.space {
            AddressSpace::Storage { access } if access == StorageAccess::LOAD => {
                Some(BindingKind::Storage(Access::Read))
            }
            AddressSpace::Storage { .. } => Some(BindingKind::Storage(Access::ReadWrite)),
            _ => None,
        };
        match (variable.space, declared.kind) {
            (AddressSpace::Uniform, BindingKind::Uniform(bytes)) => {
                let found = layout_of(module, variable.ty);
                let Some((size, fields)) = layouts.get(name) else {
                    faults.push(format!("{name}: this test knows no such uniform"));
                    continue;
                };
                let fields: Vec<_> = fields.iter().map(|(n, at, kind)| (n.to_string(), *at, *kind)).collect();
                if found != (*size, fields.clone()) || bytes != *size as u64 {
                    faults.push(format!("{name}: {found:?}, Rust has {size} bytes, {fields:?}"));
                }
            }
            (_, kind) if access == Some(kind) => {}
            (space, kind) => faults.push(format!("{name}: {space:?}, Rust declares {kind:?}")),
        }
    }
    faults
}

/// Size, rounded to what a uniform takes, and fields of a WGSL struct.
fn layout_of(
    module: &naga::Module,
    ty: naga::Handle<naga::Type>,
) -> (usize, Vec<(String, usize, ScalarKind)>) {
    let TypeInner::Struct { members, span } = &module.types[ty].inner else {
        return (0, Vec::new());
    };
    let fields = members.iter().map(|member| {
        let kind = match module.types[member.ty].inner {
            TypeInner::Scalar(scalar) => scalar.kind,
            _ => ScalarKind::Bool,
        };
        (member.name.clone().unwrap_or_default(), member.offset as usize, kind)
    });
    (span.next_multiple_of(16) as usize, fields.collect())
}

#[test]
fn every_composition_is_valid_and_declares_what_rust_declares() {
    let kernels = compositions();
    assert!(kernels.len() > 30, "only {} compositions", kernels.len());
    let mut faults = Vec::new();
    for kernel in &kernels {
        match parse(kernel) {
            Err(message) => faults.push(format!("{}: {message}", kernel.name)),
            Ok(module) => {
                let found = interface_faults(kernel, &module);
                faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", kernel.name)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A file as it is to be embedded.
fn embedded(text: &str) -> String {
    assert!(!text.contains("/*") && !text.contains('\t'), "not provided for");
    let code = text.lines().map(|line| line.split("//").next().unwrap_or(line));
    let words = code.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    words.filter(|line| !line.is_empty()).map(|line| line + "\n").collect()
}

#[test]
fn every_file_is_part_of_a_composition() {
    let kernels = compositions();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels");
    let mut seen = 0;
    for folder in [folder.clone(), folder.join("shared")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "wgsl") {
                continue;
            }
            seen += 1;
            let text = embedded(&std::fs::read_to_string(&path).unwrap());
            let used = kernels.iter().any(|kernel| kernel.parts.contains(&text.as_str()));
            assert!(used, "{} belongs to no composition", path.display());
        }
    }
    assert!(seen > 10, "only {seen} files");
}

/// Negative control: what the reflection is for, it must find.
#[test]
fn a_changed_interface_is_found() {
    let kernel = kernels::rms_norm::kernel(12, kernels::Sizes::Gpu);
    let source = kernel.source();
    let changes = [
        ("@binding(2) var<storage, read> x", "@binding(2) var<storage, read_write> x"),
        ("@binding(2) var<storage, read> x", "@binding(9) var<storage, read> x"),
        ("width: u32,", "width: f32,"),
        ("width: u32,\npitch: u32,", "pitch: u32,\nwidth: u32,"),
        ("fn rms_norm(", "fn norm("),
        ("override WG: u32 = 128u;", "const WG: u32 = 128u;"),
    ];
    assert!(interface_faults(&kernel, &naga::front::wgsl::parse_str(&source).unwrap()).is_empty());
    for (from, to) in changes {
        assert!(source.contains(from), "{from}");
        let module = naga::front::wgsl::parse_str(&source.replace(from, to)).unwrap();
        assert!(!interface_faults(&kernel, &module).is_empty(), "not found: {to}");
    }
}
