//! Which cluster and namespace a command is for.

use crate::terminal::text;

/// What the command line says of it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Place {
    /// Namespace. Default: that of the context.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig. Default: the current one.
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
}

impl Place {
    /// With a namespace where none is said.
    pub fn or(&self, namespace: String) -> Location {
        Location { namespace: self.namespace.clone().unwrap_or(namespace), context: self.context.clone() }
    }
}

/// A namespace of a cluster, and how commands name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The namespace.
    pub namespace: String,
    /// The context, where the command line names one.
    pub context: Option<String>,
}

impl Location {
    /// The same of another namespace.
    #[must_use]
    pub fn with_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), context: self.context.clone() }
    }

    /// A command for this namespace, to be run as it is printed.
    pub fn command(&self, words: &str) -> String {
        format!("{} --namespace {}", self.clusterwide(words), word(&self.namespace))
    }

    /// A command for this cluster. `tidegate` and `kubectl` name a context alike.
    pub fn clusterwide(&self, words: &str) -> String {
        match &self.context {
            None => words.to_owned(),
            Some(context) => format!("{words} --context {}", word(context)),
        }
    }
}

/// A word as a shell reads it. What a terminal does not show is shown as a space: then it is not to be run.
fn word(word: &str) -> String {
    let word = text(word);
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | '+' | '=' | ',');
    if !word.is_empty() && word.chars().all(is_plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_suggested_is_for_the_same_cluster_and_namespace() {
        let place = |context: Option<&str>| Place { context: context.map(str::to_owned), ..Place::default() };
        let own = place(None).or("shop".into());
        assert_eq!(own.command("tidegate check"), "tidegate check --namespace shop");
        assert_eq!(own.clusterwide("kubectl get eventbrokers -A"), "kubectl get eventbrokers -A");
        for (context, expected) in
            [("admin@kind:1", "admin@kind:1"), ("it's; rm *", r"'it'\''s; rm *'"), ("a\u{1b}[2J", "'a [2J'")]
        {
            let named = place(Some(context)).or("shop".into()).with_namespace("till");
            assert_eq!(
                named.command("tidegate doctor topic/a"),
                format!("tidegate doctor topic/a --context {expected} --namespace till")
            );
        }
    }
}
