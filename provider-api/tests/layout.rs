//! The ABI never changes by accident: its layout as text, against a committed snapshot.
//!
//! A difference here is allowed only at the ends that `abi.rs` names; anything else breaks plugins that
//! are already installed.

use std::{collections::HashSet, fmt::Write};

use abi_stable::{
    StableAbi,
    std_types::utypeid::UTypeId,
    type_layout::{TLData, TLField, TLFields, TypeLayout},
};
use provider_api::abi::ProviderModule_Ref;

/// What was described, and the texts: several types may have one name.
#[derive(Default)]
struct Types {
    seen: HashSet<UTypeId>,
    texts: Vec<String>,
}

#[test]
fn the_abi_is_the_committed_one() {
    let mut types = Types::default();
    describe(<ProviderModule_Ref as StableAbi>::LAYOUT, &mut types);
    types.texts.sort();
    types.texts.dedup();
    insta::assert_snapshot!(types.texts.join("\n"));
}

/// Adds a type and all that it reaches.
fn describe(layout: &'static TypeLayout, types: &mut Types) {
    if !types.seen.insert(layout.get_utypeid()) {
        return;
    }
    let (size, align) = (layout.size(), layout.alignment());
    let mut text =
        format!("{}\n    size {size} align {align} {:?}\n", layout.full_type(), layout.repr_attr());
    match layout.data() {
        TLData::Struct { fields: list } | TLData::Union { fields: list } => fields(list, &mut text, types),
        TLData::Enum(list) => {
            let names: Vec<&str> = list.variant_names_iter().collect();
            let _ = writeln!(text, "    variants {names:?} {:?}", list.discriminants);
            fields(list.fields, &mut text, types);
        }
        TLData::PrefixType(prefix) => {
            let _ = writeln!(text, "    required fields {}", prefix.first_suffix_field);
            fields(prefix.fields, &mut text, types);
        }
        _ => {}
    }
    fields(layout.phantom_fields(), &mut text, types);
    if let Some(checks) = layout.extra_checks() {
        let _ = writeln!(text, "    checks {}", checks.to_string().replace('\n', " "));
        for nested in &*checks.nested_type_layouts() {
            describe(nested, types);
        }
    }
    for generic in layout.generics().type_params() {
        describe(generic(), types);
    }
    types.texts.push(text);
}

fn fields(list: TLFields, text: &mut String, types: &mut Types) {
    for field in list.iter() {
        field_text(&field, text);
        describe(field.layout(), types);
        for function in field.function_range().iter() {
            for parameter in function.param_type_layouts.iter() {
                describe(parameter(), types);
            }
            if let Some(returned) = function.return_type_layout() {
                describe(returned(), types);
            }
        }
    }
}

fn field_text(field: &TLField, text: &mut String) {
    let _ = write!(text, "    {}: {}", field.name(), field.full_type());
    for function in field.function_range().iter() {
        let _ = write!(text, " = {}", function.to_string().replace('\n', " "));
    }
    text.push('\n');
}
