//! Templates whose `+` cannot exhaust the memory.
//!
//! The template engine charges fuel for everything but adding lists: that is lazy, until a chain of
//! sums grows too deep and all its elements are copied at once. A template that adds a list to itself
//! 33 times would ask for 2^33 of them. So every `+` is compiled to the call of a function that checks
//! the lengths first, and the filter that does the same is taken out.

use std::sync::{Arc, LazyLock};

use minijinja::machinery::{
    CompiledTemplate, Instruction, Instructions, TemplateConfig, eval, make_string_output,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};

/// Longest list that a sum may have: conversations have some hundred messages.
const MAX_LIST: usize = 10_000;

/// The function that stands for `+`. No name that a template could write.
const PLUS: &str = "+";

/// The engine's own `+`.
static NATIVE: LazyLock<Environment<'static>> = LazyLock::new(Environment::empty);

/// Makes an environment ready for templates of [`compile`].
pub(super) fn prepare(environment: &mut Environment<'_>) {
    environment.add_function(PLUS, plus);
    environment.remove_filter("chain");
}

/// Compiles a template, without automatic escaping.
pub(super) fn compile<'source>(
    name: &'source str,
    source: &'source str,
    syntax: SyntaxConfig,
) -> Result<CompiledTemplate<'source>, Error> {
    let config =
        TemplateConfig { syntax_config: syntax, default_auto_escape: Arc::new(|_| AutoEscape::None) };
    let mut compiled = CompiledTemplate::new(name, source, &config)?;
    replace_sums(&mut compiled.instructions);
    compiled.blocks.values_mut().for_each(replace_sums);
    Ok(compiled)
}

fn replace_sums(instructions: &mut Instructions<'_>) {
    for index in 0.. {
        match instructions.get_mut(index) {
            Some(instruction @ Instruction::Add) => *instruction = Instruction::CallFunction(PLUS, Some(2)),
            Some(_) => {}
            None => break,
        }
    }
}

/// Renders what [`compile`] made, in the environment that [`prepare`] was given.
pub(super) fn render<'a>(
    environment: &'a Environment<'a>,
    compiled: &'a CompiledTemplate<'a>,
    variables: Value,
) -> Result<String, Error> {
    let mut text = String::new();
    let mut output = make_string_output(&mut text);
    let CompiledTemplate { instructions, blocks, initial_auto_escape, .. } = compiled;
    eval(environment, instructions, variables, blocks, &mut output, initial_auto_escape.clone())?;
    Ok(text)
}

fn plus(a: Value, b: Value) -> Result<Value, Error> {
    let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    if is_list(&a) && is_list(&b) {
        let total = a.len().zip(b.len()).and_then(|(a, b)| a.checked_add(b));
        if total.is_none_or(|total| total > MAX_LIST) {
            let what = format!("a list of more than {MAX_LIST} elements");
            return Err(Error::new(ErrorKind::OutOfFuel, what));
        }
    }
    NATIVE.compile_expression("a + b")?.eval(context! { a, b })
}
