//! Escalation: nobody may grant what they don't have.

use super::Rule;
use super::rule::{has, has_or_all, url_covers};

/// Whether `owner` allows everything that `granted` allows. A rule of several verbs, groups or resources may be covered
/// piece by piece by several rules.
pub fn covers(owner: &[Rule], granted: &[Rule]) -> bool {
    missing(owner, granted).is_empty()
}

/// The pieces of `granted` that `owner` does not cover, put together again by verbs.
pub fn missing(owner: &[Rule], granted: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for piece in granted.iter().flat_map(pieces) {
        if owner.iter().any(|rule| rule_covers(rule, &piece)) {
            continue;
        }
        let same = out.iter_mut().find(|r| {
            Rule {
                verbs: Vec::new(),
                ..(*r).clone()
            } == Rule {
                verbs: Vec::new(),
                ..piece.clone()
            }
        });
        match same {
            Some(rule) if !has(&rule.verbs, &piece.verbs.concat()) => {
                rule.verbs.extend(piece.verbs)
            }
            Some(_) => {}
            None => out.push(piece),
        }
    }
    out
}

/// A rule as rules of one verb, group and resource (or path), and at most one name.
fn pieces(rule: &Rule) -> Vec<Rule> {
    let one = |s: &String| vec![s.clone()];
    let mut out = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            out.push(Rule {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Rule::default()
            });
        }
        for (group, resource) in rule
            .api_groups
            .iter()
            .flat_map(|g| rule.resources.iter().map(move |r| (g, r)))
        {
            let piece = Rule {
                verbs: one(verb),
                api_groups: one(group),
                resources: one(resource),
                ..Rule::default()
            };
            match rule.resource_names.as_slice() {
                [] => out.push(piece),
                names => out.extend(names.iter().map(|n| Rule {
                    resource_names: one(n),
                    ..piece.clone()
                })),
            }
        }
    }
    out
}

fn rule_covers(owner: &Rule, piece: &Rule) -> bool {
    let all = |have: &[String], asked: &[String]| asked.iter().all(|a| has_or_all(have, a));
    if !all(&owner.verbs, &piece.verbs) {
        return false;
    }
    if let [url] = piece.non_resource_urls.as_slice() {
        return owner
            .non_resource_urls
            .iter()
            .any(|have| url_covers(have, url));
    }
    let names = owner.resource_names.is_empty()
        || (!piece.resource_names.is_empty()
            && piece
                .resource_names
                .iter()
                .all(|n| has(&owner.resource_names, n)));
    names
        && all(&owner.api_groups, &piece.api_groups)
        && piece
            .resources
            .iter()
            .all(|resource| resource_covered(&owner.resources, resource))
}

fn resource_covered(have: &[String], resource: &str) -> bool {
    let any_of_sub = || {
        resource
            .split_once('/')
            .is_some_and(|(_, sub)| has(have, &format!("*/{sub}")))
    };
    has_or_all(have, resource) || any_of_sub()
}
