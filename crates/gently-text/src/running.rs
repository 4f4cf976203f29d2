//! Running templates within bounds that `minijinja` does not have: what lists hold is paid for, and values do not stand in values
//! without end.
//!
//! The library charges for text, for lists that are written down and for steps. Lists that are added, repeated or cut it only
//! notes: a list added to itself 33 times is written out, uncharged, as 2³³ elements, and one cut or wrapped 50,000 times by a
//! loop is 50,000 calls deep when it is read or dropped. So templates are compiled here and some of their instructions become
//! calls of functions below: `+`, `*` and slices make lists at once and pay for them, and a namespace, which is the only thing
//! that outlives a round of a loop, holds data of a bounded depth. What one tag spells out can still be hundreds of values deep,
//! and chains of filters and cuts deeper, for which there is a thread with room. In the same way `~`, `%` and the methods of
//! dictionaries become Python's.
//!
//! A list twice in itself, 60 times, is 2⁶⁰ to whoever writes, hashes or compares it, none of which the library charges for. So
//! whatever puts values together pays for all that the outcome holds, each as often as it is found there (see [`size`]): lists,
//! tuples and dictionaries that are written out, sums and repetitions, `dict`, `map`, `batch`, `slice` and `groupby`. What one
//! value holds is so never more than the budget, whatever is done with it. Open stays that the same values are compared (`==`,
//! `<`, `in`, tests, sorting), looked up or made lower case again and again, each time for the price of a step and of the text
//! that comes out: time that grows with the square of the budget, not without end. A macro, a loop or a cycler counts as one
//! value.
//!
//! Not here: the rest of the environment (see [`crate::template`]).

mod list;
mod made;
mod method;
mod size;
mod space;

use crate::python::{self, Paid, defined, formats};
use list::List;
use made::{dictionary, list_of, made, tuple_of};
use method::Method;
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, eval, make_string_output, parse, parse_expr};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use size::Size;
use space::Space;
use std::collections::{BTreeMap, BTreeSet};

/// Names that no template can say, and no field has.
const ADD: &str = "\0+";
const REPEAT: &str = "\0*";
const CUT: &str = "\0[:]";
const REST: &str = "\0%";
const CHAIN: &str = "\0~";
const LIST: &str = "\0[]";
const TUPLE: &str = "\0()";
const DICTIONARY: &str = "\0{}";
/// Methods of Python's dictionaries, the functions that stand for naming them, and whether a template may have them.
static METHODS: [(&str, &str, bool); 11] = [
    ("items", "\0.items", true),
    ("keys", "\0.keys", true),
    ("values", "\0.values", true),
    ("get", "\0.get", true),
    ("copy", "\0.copy", true),
    ("fromkeys", "\0.fromkeys", true),
    ("clear", "\0.clear", false),
    ("pop", "\0.pop", false),
    ("popitem", "\0.popitem", false),
    ("setdefault", "\0.setdefault", false),
    ("update", "\0.update", false),
];
/// Values within each other that a namespace holds, and that others are put together from.
const MOST_NESTED: usize = 64;
/// Room for what the longest template can nest, with much to spare.
const STACK: usize = 128 << 20;

/// Puts this module's functions into an environment.
pub(crate) fn bound(environment: &mut Environment<'_>) {
    environment.add_function(ADD, add);
    environment.add_function(REPEAT, repeat);
    environment.add_function(CUT, cut);
    environment.add_function(REST, rest);
    environment.add_function(CHAIN, chain);
    environment.add_function(LIST, list_of);
    environment.add_function(TUPLE, tuple_of);
    environment.add_function(DICTIONARY, dictionary);
    made::add(environment);
    for (name, function, is_allowed) in METHODS {
        environment.add_function(function, move |value: &Value| Method::named(value, name, is_allowed));
    }
    environment.add_function("namespace", |state: &State, values: Option<Value>, named: Kwargs| {
        Space::made_of(state, values, &named)
    });
    // Not Jinja's; they join lists as `+` does, or wrap them.
    environment.remove_filter("chain");
    environment.remove_filter("zip");
    environment.add_filter("sum", sum);
}

/// A template to be run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    name: &'static str,
    source: String,
    syntax: SyntaxConfig,
    /// The functions that assign to attributes, by the attributes' names.
    setters: BTreeMap<String, String>,
}

impl Program {
    /// Reads a template, and puts what it needs into the environment.
    pub fn new(
        environment: &mut Environment<'_>,
        name: &'static str,
        source: String,
        syntax: SyntaxConfig,
    ) -> Result<Self, Error> {
        let mut names = BTreeSet::new();
        let (instructions, blocks) = compile(name, &source, &syntax)?;
        names_set(&instructions, &mut names);
        blocks.values().for_each(|b| names_set(b, &mut names));
        let setters: BTreeMap<String, String> = names.into_iter().map(|n| (n.to_owned(), format!("\0={n}"))).collect();
        for (name, function) in &setters {
            let name = name.clone();
            let set = move |state: &State, value: Value, space: &Value| Space::set(state, space, &name, value);
            environment.add_function(function.clone(), set);
        }
        Ok(Self { name, source, syntax, setters })
    }

    /// The text that it is read from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text that it makes.
    pub fn render(&self, environment: &Environment<'static>, values: Value) -> Result<String, Error> {
        within(|| {
            let (mut instructions, mut blocks) = compile(self.name, &self.source, &self.syntax)?;
            redirect(&mut instructions, &self.setters);
            blocks.values_mut().for_each(|b| redirect(b, &self.setters));
            let mut text = String::new();
            let mut out = make_string_output(&mut text);
            eval(environment, &instructions, values, &blocks, &mut out, AutoEscape::None).map(drop)?;
            Ok(text)
        })
    }
}

type Compiled<'s> = (Instructions<'s>, BTreeMap<&'s str, Instructions<'s>>);

fn compile<'s>(name: &'s str, source: &'s str, syntax: &SyntaxConfig) -> Result<Compiled<'s>, Error> {
    let tree = parse(source, name, syntax.clone())?;
    let mut code = CodeGenerator::new(name, source);
    code.compile_stmt(&tree);
    Ok(code.finish())
}

/// What `then` makes of the value of an expression; `None` for a text that is none.
pub(crate) fn value<T: Send>(
    environment: &Environment<'static>,
    source: &str,
    values: Value,
    then: impl Fn(&Value) -> T + Sync,
) -> Result<Option<T>, Error> {
    let run = || {
        let Ok(tree) = parse_expr(source) else { return Ok(None) };
        let mut code = CodeGenerator::new("expression", source);
        code.compile_expr(&tree);
        let (mut instructions, _) = code.finish();
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        redirect(&mut instructions, &NONE);
        let (mut text, blocks) = (String::new(), BTreeMap::new());
        let mut out = make_string_output(&mut text);
        let (value, _) = eval(environment, &instructions, values, &blocks, &mut out, AutoEscape::None)?;
        Ok(value.as_ref().map(&then))
    };
    within(run)
}

/// Runs where there is room for deep values, which are dropped there too.
fn within<T: Send>(run: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let failed = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("gently-template".into()).stack_size(STACK);
        match thread.spawn_scoped(scope, run) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(failed("the template engine failed".into()))),
            Err(e) => Err(failed(format!("there is no thread for it: {e}"))),
        }
    })
}

/// Names of attributes that are assigned to.
fn names_set<'s>(instructions: &Instructions<'s>, names: &mut BTreeSet<&'s str>) {
    for at in 0.. {
        match instructions.get(at) {
            Some(Instruction::SetAttr(name)) => names.insert(name),
            Some(_) => false,
            None => return,
        };
    }
}

/// Puts calls in place of instructions. That of an assignment leaves a value that nobody takes, one for each.
fn redirect<'s>(instructions: &mut Instructions<'s>, setters: &'s BTreeMap<String, String>) {
    for at in 0.. {
        let Some(instruction) = instructions.get_mut(at) else { return };
        *instruction = match instruction {
            Instruction::Add => Instruction::CallFunction(ADD, Some(2)),
            Instruction::Mul => Instruction::CallFunction(REPEAT, Some(2)),
            Instruction::Slice => Instruction::CallFunction(CUT, Some(4)),
            Instruction::Rem => Instruction::CallFunction(REST, Some(2)),
            Instruction::StringConcat => Instruction::CallFunction(CHAIN, Some(2)),
            Instruction::BuildList(Some(n)) => made_of(LIST, *n),
            Instruction::BuildTuple(Some(n)) => made_of(TUPLE, *n),
            Instruction::BuildMap(n) => made_of(DICTIONARY, 2 * *n),
            Instruction::GetAttr(name) => match METHODS.iter().find(|method| method.0 == *name) {
                Some((_, function, _)) => Instruction::CallFunction(function, Some(1)),
                None => continue,
            },
            Instruction::SetAttr(name) => match setters.get(*name) {
                Some(function) => Instruction::CallFunction(function, Some(2)),
                None => continue,
            },
            _ => continue,
        };
    }
}

/// A call with so many values: a tag has hundreds at most.
fn made_of(function: &'static str, count: usize) -> Instruction<'static> {
    Instruction::CallFunction(function, Some(u16::try_from(count).unwrap_or(u16::MAX)))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && !value.is_tuple()
}

/// What the library itself makes of an expression over `a`, `b`, `c` and `d`: once, so that nothing can grow on its way.
fn plain(state: &State, expression: &'static str, values: &[&Value]) -> Result<Value, Error> {
    let values = Value::from_pairs(["a", "b", "c", "d"].into_iter().zip(values.iter().copied().cloned()));
    state.env().compile_expression(expression)?.eval(values)
}

/// `a + b`.
fn add(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(Value::from([a, b].concat()));
    }
    if let (true, true, Some(x), Some(y)) = (a.is_integer(), b.is_integer(), a.as_i64(), b.as_i64())
        && let Some(sum) = x.checked_add(y)
    {
        return Ok(Value::from(sum));
    }
    match is_list(a) && is_list(b) {
        true => List::of(state, a)?.plus(state, &List::of(state, b)?).map(Value::from_object),
        false => made(state, plain(state, "a + b", &[a, b])?),
    }
}

/// `a * b`.
fn repeat(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let (list, times) = if is_list(a) { (a, b) } else { (b, a) };
    match times.as_usize().filter(|_| is_list(list)) {
        Some(times) => List::of(state, list)?.times(state, times).map(Value::from_object),
        None => made(state, plain(state, "a * b", &[a, b])?),
    }
}

/// `a[b:c:d]`.
fn cut(state: &State, a: &Value, b: &Value, c: &Value, d: &Value) -> Result<Value, Error> {
    // The letters of a text are counted from its beginning.
    state.consume_fuel(a.as_str().map_or(0, str::len) as u64 / 64)?;
    let cut = plain(state, "a[b:c:d]", &[a, b, c, d])?;
    match is_list(a) {
        true => List::of(state, &cut).map(Value::from_object),
        false => Ok(cut),
    }
}

/// `a % b`: what a division leaves, or a text with values put in.
fn rest(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (true, true, Some(x), Some(y)) = (a.is_integer(), b.is_integer(), a.as_i64(), b.as_i64())
        && let Some(rest) = x.checked_rem(y)
    {
        // With the sign of what it is divided by.
        return Ok(Value::from(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }));
    }
    match a.as_str() {
        Some(format) => formats::printf(state, format, b).map(Value::from),
        None => plain(state, "a % b", &[a, b]),
    }
}

/// `a ~ b`.
fn chain(state: &mut State, a: &Value, b: &Value) -> Result<Value, Error> {
    // What is joined to markup is escaped.
    if !matches!(state.auto_escape(), AutoEscape::None) && (a.is_safe() || b.is_safe()) {
        let (a, b) = (state.format(a.clone())?, state.format(b.clone())?);
        return Ok(Value::from_safe_string(a + &b));
    }
    let state: &State = state;
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let mut out = Paid::new(&spend);
    for value in [a, b] {
        defined(state, value)?;
        out.push(&python::text(value, &spend)?)?;
    }
    Ok(Value::from(out.done()))
}

/// Jinja's filter `sum`, of numbers.
fn sum(
    state: &State,
    values: &Value,
    attribute: Option<String>,
    start: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let attribute = attribute.map_or_else(|| named.get::<Option<String>>("attribute"), |a| Ok(Some(a)))?;
    let start = start.map_or_else(|| named.get::<Option<Value>>("start"), |s| Ok(Some(s)))?;
    named.assert_all_used()?;
    let mut total = start.unwrap_or(Value::from(0));
    for value in values.try_iter()? {
        state.consume_fuel(1)?;
        let value = match &attribute {
            Some(name) => value.get_attr(name)?,
            None => value,
        };
        for number in [&total, &value] {
            if !matches!(number.kind(), ValueKind::Number | ValueKind::Bool) {
                let what = format!("can only sum numbers, got {}", number.kind());
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        }
        total = add(state, &total, &value)?;
    }
    Ok(total)
}
