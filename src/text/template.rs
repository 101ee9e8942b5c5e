//! Chat templates, rendered as transformers renders them.
//!
//! A template is code from a checkpoint: its steps, its nesting and the text and
//! lists it builds are limited.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;

use super::error::TextError;
use super::{jinja, python};

/// Work that rendering may do, in the template engine's units (an instruction,
/// or 64 bytes copied): a real template does a few hundred in all, a few dozen
/// per message, and copies each text a few times. More than this would let a
/// template nest values so deeply that dropping them overflows a 1 MiB stack.
const MAX_STEPS: u64 = 40_000;
/// How deep macros and includes may nest.
const MAX_RECURSION: usize = 50;

/// The files that a chat template and its special tokens come from.
#[derive(Clone, Copy, Debug, Default)]
pub struct TemplateFiles<'a> {
    /// tokenizer_config.json: `chat_template` and `bos_token` etc.
    pub tokenizer_config: Option<&'a [u8]>,
    /// chat_template.jinja; wins over the one in tokenizer_config.json.
    pub chat_template: Option<&'a [u8]>,
    /// special_tokens_map.json: tokens that tokenizer_config.json does not name.
    pub special_tokens_map: Option<&'a [u8]>,
}

/// A checkpoint's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    syntax: SyntaxConfig,
    source: String,
    /// `bos_token` etc., as the template's variables.
    special_tokens: Vec<(&'static str, String)>,
}

const NAME: &str = "chat_template";
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What `raise_exception` was called with, to tell it from the engine's own errors.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    /// Reads the template; `None` if the checkpoint has none.
    ///
    /// # Errors
    /// [`TextError::BadJson`]; [`TextError::Template`] if it does not parse, or
    /// if there are several and none is named `default`.
    pub fn from_files(files: TemplateFiles<'_>) -> Result<Option<Self>, TextError> {
        let config = object("tokenizer_config.json", files.tokenizer_config)?;
        let map = object("special_tokens_map.json", files.special_tokens_map)?;
        let source = match files.chat_template {
            Some(file) => Some(utf8(file)?.to_owned()),
            None => config.get("chat_template").map_or(Ok(None), default_template)?,
        };
        let Some(source) = source else { return Ok(None) };
        let special_tokens = SPECIAL_TOKENS
            .iter()
            .filter_map(|&name| Some((name, token(&config, name).or_else(|| token(&map, name))?)))
            .collect();
        Self::new(&source, special_tokens).map(Some)
    }

    fn new(source: &str, special_tokens: Vec<(&'static str, String)>) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.map_err(|e| error(&e))?;
        jinja::prepare(&mut environment);
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", python::tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
        });
        let source = without_generation_tags(source);
        jinja::compile(NAME, &source, syntax.clone()).map_err(|e| error(&e))?;
        Ok(Self { environment, syntax, source, special_tokens })
    }

    /// Renders a conversation. A message is anything that serializes to a map
    /// with `role` and `content`. `now_unix_s` is the time for `strftime_now`,
    /// in seconds since 1970 plus the offset of the visitor's time zone.
    ///
    /// # Errors
    /// [`TextError::TemplateRaised`] if the template refuses the messages (say,
    /// roles that do not alternate), [`TextError::TemplateTooLong`],
    /// [`TextError::Template`].
    pub fn render<M: Serialize>(
        &self,
        messages: &[M],
        add_generation_prompt: bool,
        now_unix_s: i64,
    ) -> Result<String, TextError> {
        let strftime_now = Value::from_function(move |format: String| python::strftime(&format, now_unix_s));
        let special = Value::from_pairs(self.special_tokens.iter().map(|(k, v)| (*k, v.as_str())));
        let variables = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            // transformers always defines these.
            tools => Value::from(()),
            documents => Value::from(()),
            strftime_now => strftime_now,
            ..special
        };
        // Compiled for each prompt: it borrows its source, and takes less time than one token.
        let compiled = jinja::compile(NAME, &self.source, self.syntax.clone()).map_err(|e| error(&e))?;
        jinja::render(&self.environment, &compiled, variables).map_err(|e| error(&e))
    }

    /// The text of a special token such as `bos_token` or `eos_token`, as the template knows it.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.iter().find(|(key, _)| *key == name).map(|(_, token)| token.as_str())
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("special_tokens", &self.special_tokens).finish_non_exhaustive()
    }
}

type Object = serde_json::Map<String, serde_json::Value>;

fn object(file: &'static str, json: Option<&[u8]>) -> Result<Object, TextError> {
    json.map_or(Ok(Object::new()), serde_json::from_slice)
        .map_err(|e| TextError::BadJson { file, reason: e.to_string() })
}

fn utf8(file: &[u8]) -> Result<&str, TextError> {
    std::str::from_utf8(file).map_err(|e| TextError::Template { reason: e.to_string() })
}

/// A special token: a string, or an object with its `content`.
fn token(object: &Object, name: &str) -> Option<String> {
    let value = object.get(name)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// `chat_template`: a string, or a list of `{name, template}`.
fn default_template(value: &serde_json::Value) -> Result<Option<String>, TextError> {
    use serde_json::Value::{Array, Null, String};
    match value {
        Null => Ok(None),
        String(source) => Ok(Some(source.clone())),
        Array(list) => {
            let named = |name: &str| {
                let entry = list.iter().find(|t| t.get("name").and_then(|n| n.as_str()) == Some(name));
                entry?.get("template")?.as_str().map(str::to_owned)
            };
            named("default").map(Some).ok_or_else(|| TextError::Template {
                reason: format!("none of the {} templates is named \"default\"", list.len()),
            })
        }
        _ => Err(TextError::Template { reason: "it is neither a string nor a list".to_owned() }),
    }
}

/// `{% generation %}` blocks mark the assistant's words for training and render
/// as their content: a `with` block does the same, scope included.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let (inside, after) = tag.split_at(end);
        let name = inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        let replacement = match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        out.push_str(&inside.replacen(name, replacement, 1));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn error(error: &Error) -> TextError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TextError::TemplateRaised { message: message.clone() };
        }
        if cause.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return TextError::TemplateTooLong { steps: MAX_STEPS };
        }
        source = cause.source();
    }
    TextError::Template { reason: error.to_string() }
}
