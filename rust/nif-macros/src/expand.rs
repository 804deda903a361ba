//! From a function to a NIF: the function itself, untouched, and beside it its description and its wrapper.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit_mut::{VisitMut, visit_type_reference_mut};
use syn::{Attribute, Error, Expr, FnArg, Ident, ItemFn, Lifetime, Lit, Meta, Pat, Result, ReturnType, Token, Type};

use crate::call_line::{self, CallLine};

const FLAGS: [&str; 6] = ["long", "idempotent", "pure", "thread_bound", "polls_cancel", "fault"];

pub fn nif(flags: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let flags = parse_flags(flags)?;
    let mut function: ItemFn = syn::parse2(function)?;
    Lending.visit_signature_mut(&mut function.sig);
    let params = parameters(&function)?;
    let line = documented_call(&function, &params)?;
    let companion = companion(&flags, &function, &params, &line);
    Ok(quote! { #function #companion })
}

fn parse_flags(flags: TokenStream) -> Result<Vec<Ident>> {
    let parser = Punctuated::<Ident, Token![,]>::parse_terminated;
    let flags: Vec<Ident> = syn::parse::Parser::parse2(parser, flags)?.into_iter().collect();
    for flag in &flags {
        if !FLAGS.iter().any(|known| flag == known) {
            return Err(Error::new(flag.span(), format!("expected one of: {}", FLAGS.join(", "))));
        }
    }
    Ok(flags.iter().map(|flag| Ident::new(&flag.to_string().to_uppercase(), flag.span())).collect())
}

struct Parameter {
    name: Ident,
    /// Without named lifetimes, which mean nothing outside the function.
    type_: Type,
}

fn parameters(function: &ItemFn) -> Result<Vec<Parameter>> {
    let signature = &function.sig;
    if signature.asyncness.is_some() || signature.unsafety.is_some() || signature.abi.is_some() {
        return Err(Error::new(signature.span(), "a NIF is a plain function: remove `async`, `unsafe` or `extern`"));
    }
    if signature.generics.type_params().next().is_some() || signature.generics.const_params().next().is_some() {
        return Err(Error::new(
            signature.generics.span(),
            "a NIF isn't generic: write one function for each type, as `fn mean_f64(x: &[f64])`",
        ));
    }
    let parameter = |input: &FnArg| match input {
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(pattern) => {
                let mut type_ = (*typed.ty).clone();
                AnyLifetime.visit_type_mut(&mut type_);
                Ok(Parameter { name: pattern.ident.clone(), type_ })
            }
            pattern => Err(Error::new(pattern.span(), "a parameter of a NIF has a plain name")),
        },
        FnArg::Receiver(it) => Err(Error::new(it.span(), "a NIF is a free function: it has no `self`")),
    };
    signature.inputs.iter().map(parameter).collect()
}

/// Writes the slices in the type of a callback as types without a lifetime: `fn(&[f64])` as `fn(Slice<f64>)`.
struct Lending;

impl VisitMut for Lending {
    fn visit_type_path_mut(&mut self, path: &mut syn::TypePath) {
        let Some(last) = path.path.segments.last_mut().filter(|it| it.ident == "Callback") else { return };
        let syn::PathArguments::AngleBracketed(arguments) = &mut last.arguments else { return };
        for argument in &mut arguments.args {
            let syn::GenericArgument::Type(Type::BareFn(function)) = argument else { continue };
            for input in &mut function.inputs {
                let Type::Reference(reference) = &input.ty else { continue };
                let Type::Slice(slice) = &*reference.elem else { continue };
                let element = &slice.elem;
                input.ty = if reference.mutability.is_some() {
                    syn::parse_quote! { ::nif::SliceMut<#element> }
                } else {
                    syn::parse_quote! { ::nif::Slice<#element> }
                };
            }
        }
    }
}

/// Replaces lifetimes by the one that the compiler infers.
struct AnyLifetime;

impl VisitMut for AnyLifetime {
    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        *lifetime = Lifetime::new("'_", lifetime.span());
    }

    fn visit_type_reference_mut(&mut self, reference: &mut syn::TypeReference) {
        reference.lifetime = None;
        visit_type_reference_mut(self, reference);
    }
}

fn documentation(attributes: &[Attribute]) -> String {
    let line = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    let lines: Vec<String> = attributes.iter().filter_map(line).collect();
    let lines: Vec<&str> = lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n")
}

/// The call in the documentation, which must be that of the function; without one, the call that the types suggest.
fn documented_call(function: &ItemFn, params: &[Parameter]) -> Result<CallLine> {
    let name = &function.sig.ident;
    let cure = suggestion(name, params);
    let text = documentation(&function.attrs);
    let Some(line) = call_line::parse(&text) else {
        if !text.trim_start().trim_start_matches('`').starts_with(&format!("{name}(")) {
            return call_line::parse(&format!("{}: {text}", suggested_call(name, params)))
                .ok_or_else(|| Error::new(name.span(), "a NIF has a plain name, and so do its parameters"));
        }
        let text = format!("the documentation of a NIF starts with its call: {cure}");
        return Err(Error::new(name.span(), text));
    };
    if name != &line.name {
        let text = format!("the documentation calls this function `{}`; it starts with: {cure}", line.name);
        return Err(Error::new(name.span(), text));
    }
    let documented = line.items.iter().map(|item| item.name.as_str());
    if !documented.eq(params.iter().map(|param| param.name.to_string())) {
        let text = format!("the documentation names other parameters than the function; it starts with: {cure}");
        return Err(Error::new(function.sig.inputs.span(), text));
    }
    for (item, param) in line.items.iter().zip(params) {
        if item.dims.is_empty() && !example_dims(&param.type_).is_empty() {
            let text = format!("the documentation gives no dimensions for `{}`; it starts with: {cure}", item.name);
            return Err(Error::new(param.type_.span(), text));
        }
    }
    Ok(line)
}

/// The line that the documentation should start with.
fn suggestion(name: &Ident, params: &[Parameter]) -> String {
    format!("/// {}: what it does.", suggested_call(name, params))
}

/// A call in which each array that is read has lengths of its own, and an output those of the first one with as many axes.
fn suggested_call(name: &Ident, params: &[Parameter]) -> String {
    let scalars = params.iter().filter(|it| example_dims(&it.type_).is_empty());
    let scalars: Vec<String> = scalars.map(|it| it.name.to_string()).collect();
    let mut read: Vec<Vec<String>> = Vec::new();
    let mut items = Vec::new();
    for Parameter { name, type_, .. } in params {
        let plain = example_dims(type_);
        let is_output = is_written(type_) && (name == "out" || name.to_string().starts_with("out_"));
        let like = read.iter().find(|it| is_output && it.len() == plain.len());
        let dim = |(axis, dim): (usize, &&str)| match like {
            // A parameter that is called n is the length of an output, and of nothing that is read.
            Some(like) if !scalars.iter().any(|it| it == dim) => like[axis].clone(),
            _ if is_output || *dim == "..." => (*dim).to_owned(),
            _ => own_dim(dim, read.len() + 1, &scalars),
        };
        let dims: Vec<String> = plain.iter().enumerate().map(dim).collect();
        items.push(if dims.is_empty() { name.to_string() } else { format!("{name}[{}]", dims.join(", ")) });
        if !is_output && !matches!(plain, [] | ["..."]) {
            read.push(dims);
        }
    }
    format!("`{}({})`", name, items.join(", "))
}

/// The name of an axis of the array with that number: n, n2, n3; never that of a scalar.
fn own_dim(dim: &str, number: usize, scalars: &[String]) -> String {
    let mut own = if number == 1 { dim.to_owned() } else { format!("{dim}{number}") };
    while scalars.contains(&own) {
        own.push('_');
    }
    own
}

/// Dimensions for a type that has some, as far as its spelling tells. (The compiler itself checks them, in `Param::new`.)
fn example_dims(type_: &Type) -> &'static [&'static str] {
    match type_ {
        Type::Reference(reference) if matches!(*reference.elem, Type::Slice(_)) => &["n"],
        Type::Path(path) => match path.path.segments.last() {
            Some(last) if last.ident == "Matrix" || last.ident == "MatrixMut" => &["m", "n"],
            Some(last) if last.ident == "AnyArray" => &["..."],
            Some(last) if last.ident == "Vec" && inner(last).is_some_and(is_text) => &[],
            Some(last) if last.ident == "Vec" => &["n"],
            Some(last) if last.ident == "Option" => inner(last).map_or(&[], example_dims),
            _ => &[],
        },
        _ => &[],
    }
}

/// Whether the function may write to an array of this type.
fn is_written(type_: &Type) -> bool {
    match type_ {
        Type::Reference(reference) => reference.mutability.is_some(),
        Type::Path(path) => {
            path.path.segments.last().is_some_and(|it| {
                it.ident == "MatrixMut" || (it.ident == "Option" && inner(it).is_some_and(is_written))
            })
        }
        _ => false,
    }
}

/// The type between the angle brackets of a path.
fn inner(last: &syn::PathSegment) -> Option<&Type> {
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().find_map(|it| if let syn::GenericArgument::Type(type_) = it { Some(type_) } else { None })
}

fn is_text(type_: &Type) -> bool {
    match type_ {
        Type::Reference(reference) => is_text(&reference.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|it| it.ident == "String" || it.ident == "str"),
        _ => false,
    }
}

/// The items beside the function.
fn companion(flags: &[Ident], function: &ItemFn, params: &[Parameter], line: &CallLine) -> TokenStream {
    let function_name = &function.sig.ident;
    let (name, doc, result_names) = (&line.name, &line.doc, &line.results);
    // A linker takes no other letters in the list of what a library exports.
    let plain: String =
        name.chars().map(|it| if it.is_ascii() { it.to_string() } else { format!("_u{:x}", u32::from(it)) }).collect();
    let symbol = format!("__tvm_ffi_{plain}");
    let result = match &function.sig.output {
        ReturnType::Default => quote! { () },
        ReturnType::Type(_, type_) => {
            let mut type_ = type_.clone();
            StaticLifetime.visit_type_mut(&mut type_);
            quote! { #type_ }
        }
    };
    let n_params = params.len();
    let param_values = params.iter().zip(&line.items).map(|(param, item)| {
        let (type_, name, dims) = (&param.type_, &item.name, &item.dims);
        quote_spanned! { type_.span()=> ::nif::signature::Param::new::<#type_>(#name, &[#(#dims),*]) }
    });
    let raws: Vec<Ident> = (0..n_params).map(|index| format_ident!("__raw_{index}")).collect();
    let reads = params.iter().enumerate().map(|(index, Parameter { type_, .. })| {
        let raw = &raws[index];
        quote! { let #raw = __args.read::<#type_>(#index)?; }
    });
    let dimensions = dimension_checks(line, &raws);
    let makes = params.iter().zip(&raws).map(|(Parameter { type_, .. }, raw)| {
        quote! { <#type_ as ::nif::args::Argument>::make(#raw) }
    });
    quote! {
        #[allow(unsafe_code, unused_mut, clippy::undocumented_unsafe_blocks, reason = "the ABI's promise, see nif::export::call")]
        const _: () = {
            static PARAMS: [::nif::signature::Param; #n_params] = [#(#param_values),*];
            const _: () = ::nif::signature::check_order(&PARAMS);
            const _: () = ::nif::signature::check_results(<#result as ::nif::outcome::Outcome>::COUNT, &[#(#result_names),*]);

            #[::nif::linkme::distributed_slice(::nif::export::NIFS)]
            #[linkme(crate = ::nif::linkme)]
            static NIF: ::nif::signature::Nif = ::nif::signature::Nif {
                name: #name,
                params: &PARAMS,
                result: <#result as ::nif::outcome::Outcome>::spell,
                result_names: &[#(#result_names),*],
                doc: #doc,
                flags: 0 #(| ::nif::abi::flag::#flags)*,
                call: __call,
            };

            #[unsafe(export_name = #symbol)]
            unsafe extern "C" fn __call(
                env: *mut ::core::ffi::c_void,
                args: *const ::nif::abi::Any,
                n_args: i32,
                result: *mut ::nif::abi::Any,
            ) -> i32 {
                unsafe {
                    ::nif::export::call(&NIF, &PARAMS, env, args, n_args, |__args| {
                        #(#reads)*
                        #dimensions
                        __args.disjoint(&[#(::nif::args::Raw::addresses(&#raws)),*])?;
                        ::nif::outcome::Outcome::write(#function_name(#(#makes),*), result)
                    })
                }
            }
        };
    }
}

/// In a result, an inferred lifetime can't stand in a constant; strings are static anyway.
struct StaticLifetime;

impl VisitMut for StaticLifetime {
    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        *lifetime = Lifetime::new("'static", lifetime.span());
    }
}

/// Rows 8 and 9 of docs/abi.md: scalars that name a dimension bind it, then the first axis that uses it, and all further
/// axes must agree.
fn dimension_checks(line: &CallLine, raws: &[Ident]) -> TokenStream {
    let axes = || {
        let axes_of = |(index, item)| {
            let dims: &[String] = if item_is_any(item) { &[] } else { &item.dims };
            dims.iter().enumerate().map(move |(axis, dim)| (index, axis, dim))
        };
        line.items.iter().enumerate().flat_map(axes_of)
    };
    let mut checks = TokenStream::new();
    let mut bound: Vec<&str> = Vec::new();
    for (index, item) in line.items.iter().enumerate() {
        // An array may have the name of a dimension, as in `total(m[m, n])`: it doesn't fix it.
        if item.dims.is_empty() && axes().any(|(.., dim)| *dim == item.name) {
            let (dim, raw) = (binding(&item.name), &raws[index]);
            checks.extend(quote! { let mut #dim = __args.dimension(#index, #raw)?; });
            bound.push(&item.name);
        }
    }
    for (index, axis, name) in axes() {
        let (dim, raw) = (binding(name), &raws[index]);
        if bound.contains(&name.as_str()) {
            checks.extend(quote! { __args.same(#index, &#raw, #axis, &mut #dim)?; });
        } else {
            checks.extend(quote! { let mut #dim = ::nif::args::Raw::extent(&#raw, #axis); });
            bound.push(name);
        }
    }
    checks
}

fn item_is_any(item: &call_line::Item) -> bool {
    item.dims.first().is_some_and(|dim| dim == "...")
}

fn binding(dim: &str) -> Ident {
    Ident::new(&format!("__dim_{dim}"), Span::call_site())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(flags: TokenStream, function: TokenStream) -> String {
        nif(flags, function).expect_err("it must be refused").to_string()
    }

    #[test]
    fn refusals_name_the_cure() {
        let cure = "/// `dot(x[n], a[m2, n2], s, any[...])`: what it does.";
        let function = |line: &str| {
            quote! {
                #[doc = #line]
                fn dot(x: &mut [f64], a: nif::Matrix<'_, f64>, s: f64, any: AnyArray) {}
            }
        };
        for (line, reason) in [
            ("`dot(x[n`: it.", "the documentation of a NIF starts with its call"),
            ("`dott(x[n])`: it.", "the documentation calls this function `dott`; it starts with"),
            ("`dot(x[n])`: it.", "the documentation names other parameters than the function; it starts with"),
            ("`dot(x, a[m, n], s, any[...])`.", "the documentation gives no dimensions for `x`; it starts with"),
        ] {
            assert_eq!(refusal(quote! {}, function(line)), format!("{reason}: {cure}"));
        }
        assert!(nif(quote! {}, function(" `dot(x[n], a[m, n], s, any[...])`: it.")).is_ok());
    }

    #[test]
    fn a_call_that_isnt_documented_follows_from_the_types() {
        let function: ItemFn = syn::parse_quote! {
            /// Scales in (place).
            fn scale(x: &mut [f64], by: f64, m: nif::Matrix<'_, f64>) {}
        };
        let line = documented_call(&function, &parameters(&function).unwrap()).unwrap();
        let dims: Vec<_> = line.items.iter().map(|it| it.dims.join(",")).collect();
        assert_eq!((line.name.as_str(), line.doc.as_str()), ("scale", "Scales in (place)."));
        assert_eq!(dims, ["n", "", "m2,n2"]);
        for (function, expected) in [
            (quote! { fn f(x: &[f64], n: usize, out: &mut [f64]) {} }, ["n_", "", "n"]),
            (quote! { fn f(out_x: &[f64], n2: i64, at: &[i64]) {} }, ["n", "", "n2_"]),
            (quote! { fn f(x: Option<&[f64]>, a: Matrix<f64>, out: MatrixMut<f64>) {} }, ["n", "m2,n2", "m2,n2"]),
            (quote! { fn f(any: AnyArray, y: &mut [f64], out: MatrixMut<f64>) {} }, ["...", "n", "m,n"]),
        ] {
            let function: ItemFn = syn::parse2(function).unwrap();
            let line = documented_call(&function, &parameters(&function).unwrap()).unwrap();
            assert_eq!(line.items.iter().map(|it| it.dims.join(",")).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn only_plain_functions_are_exported() {
        for (function, reason) in [
            (quote! { async fn f() {} }, "a NIF is a plain function: remove `async`, `unsafe` or `extern`"),
            (
                quote! { fn f<T>(x: &[T]) {} },
                "a NIF isn't generic: write one function for each type, as `fn mean_f64(x: &[f64])`",
            ),
            (quote! { fn f((x, y): (f64, f64)) {} }, "a parameter of a NIF has a plain name"),
            (quote! { fn f(self) {} }, "a NIF is a free function: it has no `self`"),
        ] {
            assert_eq!(refusal(quote! {}, function), reason);
        }
        let flags = "expected one of: long, idempotent, pure, thread_bound, polls_cancel, fault";
        assert_eq!(refusal(quote! { quick }, quote! { fn f() {} }), flags);
    }
}
