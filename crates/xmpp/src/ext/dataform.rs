//! XEP-0004 v2.13.2: Data Forms.
//!
//! Left out: tables of results (`<reported/>` and `<item/>`, §3.4).

use crate::ns;
use crate::xml::Element;

/// The most fields that are read from a form.
const MAX_FIELDS: usize = 256;

/// The purpose of a form (§3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormType {
    /// To be filled in.
    Form,
    /// Filled in.
    Submit,
    /// Cancelled.
    Cancel,
    /// Data.
    Result,
}

impl FormType {
    /// The value of the `type` attribute.
    pub fn name(self) -> &'static str {
        match self {
            FormType::Form => "form",
            FormType::Submit => "submit",
            FormType::Cancel => "cancel",
            FormType::Result => "result",
        }
    }

    /// The type of that name.
    pub fn parse(name: &str) -> Option<FormType> {
        match name {
            "form" => Some(FormType::Form),
            "submit" => Some(FormType::Submit),
            "cancel" => Some(FormType::Cancel),
            "result" => Some(FormType::Result),
            _ => None,
        }
    }
}

/// One field (§3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// Its name; empty only for `fixed`.
    pub var: String,
    /// Its type as written, such as `text-single`; empty if it has none.
    pub kind: String,
    /// A name for people.
    pub label: Option<String>,
    /// A description for people.
    pub desc: Option<String>,
    /// Whether it must be filled in.
    pub required: bool,
    /// Its values.
    pub values: Vec<String>,
    /// Label and value of each option.
    pub options: Vec<(Option<String>, String)>,
    /// Other elements, such as `<validate/>` of XEP-0122; only written.
    pub extra: Vec<Element>,
}

impl Field {
    /// A field without a value.
    pub fn new(kind: &str, var: &str) -> Field {
        Field {
            var: var.to_owned(),
            kind: kind.to_owned(),
            ..Field::default()
        }
    }

    /// The same field with one more value.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Field {
        self.values.push(value.into());
        self
    }

    /// The same field with a label.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Field {
        self.label = Some(label.into());
        self
    }

    /// The first value; `None` if there is none or it is empty (§3.6).
    pub fn value(&self) -> Option<&str> {
        self.values
            .first()
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn parse(element: &Element) -> Field {
        let text_of = |name: &str| element.child(name, ns::DATA_FORM).map(Element::text);
        let of = |name: &'static str| {
            element
                .children()
                .filter(move |child| child.is(name, ns::DATA_FORM))
        };
        let option = |option: &Element| {
            let value = option.child("value", ns::DATA_FORM)?.text();
            Some((option.attr("label").map(str::to_owned), value))
        };
        Field {
            var: element.attr("var").unwrap_or("").to_owned(),
            kind: element.attr("type").unwrap_or("").to_owned(),
            label: element.attr("label").map(str::to_owned),
            desc: text_of("desc"),
            required: element.child("required", ns::DATA_FORM).is_some(),
            values: of("value").map(Element::text).collect(),
            options: of("option").filter_map(option).collect(),
            extra: Vec::new(),
        }
    }

    fn to_element(&self) -> Element {
        let mut element = Element::new("field", ns::DATA_FORM);
        if !self.var.is_empty() {
            element.set_attr("var", self.var.as_str());
        }
        if !self.kind.is_empty() {
            element.set_attr("type", self.kind.as_str());
        }
        if let Some(label) = &self.label {
            element.set_attr("label", label.as_str());
        }
        if let Some(desc) = &self.desc {
            element.push(text_element("desc", desc));
        }
        if self.required {
            element.push(Element::new("required", ns::DATA_FORM));
        }
        for value in &self.values {
            element.push(text_element("value", value));
        }
        for (label, value) in &self.options {
            let mut option = Element::new("option", ns::DATA_FORM);
            if let Some(label) = label {
                option.set_attr("label", label.as_str());
            }
            option.push(text_element("value", value));
            element.push(option);
        }
        for extra in &self.extra {
            element.push(extra.clone());
        }
        element
    }
}

/// A form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Its purpose.
    pub kind: FormType,
    /// A title for people.
    pub title: Option<String>,
    /// Instructions for people.
    pub instructions: Vec<String>,
    /// The fields in order.
    pub fields: Vec<Field>,
}

impl Form {
    /// A form without fields, except a hidden `FORM_TYPE` (XEP-0068) if that is not empty.
    pub fn new(kind: FormType, form_type: &str) -> Form {
        let mut form = Form {
            kind,
            title: None,
            instructions: Vec::new(),
            fields: Vec::new(),
        };
        if !form_type.is_empty() {
            form.fields
                .push(Field::new("hidden", "FORM_TYPE").with_value(form_type));
        }
        form
    }

    /// The same form with one more field.
    #[must_use]
    pub fn with_field(mut self, field: Field) -> Form {
        self.fields.push(field);
        self
    }

    /// Reads `<x/>`; `None` if it is another element, has no known type, or too many fields.
    pub fn parse(element: &Element) -> Option<Form> {
        if !element.is("x", ns::DATA_FORM) {
            return None;
        }
        let kind = FormType::parse(element.attr("type")?)?;
        let of = |name: &'static str| {
            element
                .children()
                .filter(move |child| child.is(name, ns::DATA_FORM))
        };
        if of("field").count() > MAX_FIELDS {
            return None;
        }
        Some(Form {
            kind,
            title: of("title").next().map(Element::text),
            instructions: of("instructions").map(Element::text).collect(),
            fields: of("field").map(Field::parse).collect(),
        })
    }

    /// The form directly inside this element.
    pub fn inside(parent: &Element) -> Option<Form> {
        Form::parse(parent.child("x", ns::DATA_FORM)?)
    }

    /// The first field of that name.
    pub fn field(&self, var: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.var == var)
    }

    /// The first value of a field; `None` if there is none or it is empty.
    pub fn value(&self, var: &str) -> Option<&str> {
        self.field(var)?.value()
    }

    /// All values of a field.
    pub fn values(&self, var: &str) -> &[String] {
        self.field(var).map_or(&[], |field| &field.values)
    }

    /// The value of a boolean field; `None` if there is none or it is no boolean.
    pub fn boolean(&self, var: &str) -> Option<bool> {
        parse_boolean(self.value(var)?)
    }

    /// The value of `FORM_TYPE` (XEP-0068).
    pub fn form_type(&self) -> Option<&str> {
        self.value("FORM_TYPE")
    }

    /// Builds `<x/>`.
    pub fn to_element(&self) -> Element {
        let mut element = Element::new("x", ns::DATA_FORM).with_attr("type", self.kind.name());
        if let Some(title) = &self.title {
            element.push(text_element("title", title));
        }
        for instructions in &self.instructions {
            element.push(text_element("instructions", instructions));
        }
        for field in &self.fields {
            element.push(field.to_element());
        }
        element
    }
}

/// A boolean of XML Schema: `1`, `true`, `0` or `false`.
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn text_element(name: &str, text: &str) -> Element {
    Element::new(name, ns::DATA_FORM).with_text(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::testing::element;
    use super::*;

    /// §5.1, example 4, shortened.
    #[test]
    fn submission() {
        let form = Form::parse(&element(
            "<x xmlns='jabber:x:data' type='submit'>\
             <field type='hidden' var='FORM_TYPE'><value>jabber:bot</value></field>\
             <field type='text-single' var='botname'><value>The Jabber Google Bot</value></field>\
             <field type='boolean' var='public'><value>0</value></field>\
             <field type='list-multi' var='features'><value>news</value><value>search</value></field>\
             <field var='empty'><value/></field><field var='absent'/></x>",
        ))
        .unwrap();
        assert_eq!(form.kind, FormType::Submit);
        assert_eq!(form.form_type(), Some("jabber:bot"));
        assert_eq!(form.value("botname"), Some("The Jabber Google Bot"));
        assert_eq!(form.boolean("public"), Some(false));
        assert_eq!(form.boolean("botname"), None);
        assert_eq!(form.values("features"), ["news", "search"]);
        assert_eq!(
            (form.value("empty"), form.value("absent"), form.value("x")),
            (None, None, None)
        );
        assert!(form.field("absent").is_some() && form.values("x").is_empty());
    }

    /// §5.1, example 2, shortened.
    #[test]
    fn both_ways() {
        let mut form = Form::new(FormType::Form, "jabber:bot");
        form.title = Some("Bot <Configuration>".to_owned());
        form.instructions.push("Fill out this form".to_owned());
        let mut features = Field::new("list-multi", "features").with_label("What features");
        features.required = true;
        features.desc = Some("all of them".to_owned());
        features.options = vec![
            (Some("News".to_owned()), "news".to_owned()),
            (None, "x".to_owned()),
        ];
        let form = form.with_field(features.with_value("news"));
        let element = form.to_element();
        assert_eq!(Form::parse(&element), Some(form.clone()));
        let query = Element::new("query", "urn:x").with_child(element);
        assert_eq!(Form::inside(&query), Some(form));
    }

    #[test]
    fn refused() {
        assert_eq!(Form::parse(&element("<x xmlns='jabber:x:data'/>")), None);
        assert_eq!(
            Form::parse(&element("<x xmlns='jabber:x:data' type='error'/>")),
            None
        );
        assert_eq!(
            Form::parse(&element("<x xmlns='urn:x' type='form'/>")),
            None
        );
        let fields = "<field/>".repeat(MAX_FIELDS + 1);
        let xml = format!("<x xmlns='jabber:x:data' type='form'>{fields}</x>");
        assert_eq!(Form::parse(&element(&xml)), None);
    }

    #[test]
    fn booleans() {
        let read: Vec<_> = ["1", "true", "0", "false", "TRUE", "", "yes"]
            .map(parse_boolean)
            .into();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(read, [yes, yes, no, no, None, None, None]);
    }
}
