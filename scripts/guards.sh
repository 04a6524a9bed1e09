#!/usr/bin/env bash
# Takes away, one after the other, each guard that the order of records stands on, in a private copy
# of the sources, and says which tests break. A guard that nothing misses is an error.
#
#     scripts/guards.sh            all of them
#     scripts/guards.sh floor      those whose name contains "floor"
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
only="${1:-}"
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/guards" RUST_BACKTRACE=0 PROPTEST_FAILURE_PERSISTENCE=off
(cd "$root" && git ls-files -z | tar --null -T - -cf -) | tar -xf - -C "$copy"
cd "$copy"
missed=0

# guard NAME FILE LINE REPLACEMENT: the one line of FILE that reads LINE, but for its indent, is
# replaced while the tests run.
guard() {
    local name="$1" file="$2" line="$3" replacement="$4" found broken
    [[ "$name" == *"$only"* ]] || return 0
    found="$(awk -v line="$line" '{ text = $0; sub(/^ +/, "", text); if (text == line) print NR }' "$file")"
    if [[ ! "$found" =~ ^[0-9]+$ ]]; then
        echo "$name: expected one line of $file to read: $line" >&2
        exit 2
    fi
    cp "$file" "$copy/guarded"
    awk -v at="$found" -v text="$replacement" 'NR == at { print text; next } { print }' "$copy/guarded" >"$file"
    if ! cargo test --quiet --no-run --lib --test model >"$copy/log" 2>&1; then
        echo "$name: does not compile without it" >&2
        grep -m 3 -A 6 '^error' "$copy/log" >&2
        exit 2
    fi
    # They are meant to fail; what they say is in the log.
    cargo test --no-fail-fast --lib --test model -- storage:: record:: schedule merging >"$copy/log" 2>&1 || true
    broken="$(sed -n 's/^test \(.*\) \.\.\. FAILED$/    \1/p' "$copy/log" | sort -u)"
    cp "$copy/guarded" "$file"
    echo "$name"
    if [[ -z "$broken" ]]; then
        echo "    NOTHING BROKE"
        missed=$((missed + 1))
    else
        echo "$broken"
    fi
}

storage=src/storage/mod.rs
record=src/record/mod.rs

guard "tombstones" $storage \
    'if both != before && lapses > now.mono {' \
    'if both != before && lapses > now.mono && now.mono < Time::ZERO {'
guard "an ended record counts before it is swept" $storage \
    'self.bury_ended(now, &record.key);' \
    'if let Some(held) = self.records.find(&record.key) && held.expires <= now.mono { self.remove(&record.key); }'
guard "a tombstone beats its own plain version" $record \
    'Class::Plain => signed.or(plain.filter(|plain| plain.version >= version)),' \
    'Class::Plain => signed.or(plain.filter(|plain| plain.version > version)),'
guard "a tombstone beats its own signed version" $record \
    'Class::Signed | Class::Hashed => signed.filter(|signed| signed.version >= version),' \
    'Class::Signed | Class::Hashed => signed.filter(|signed| signed.version > version),'
guard "a signed tombstone beats plain records" $record \
    'Class::Plain => signed.or(plain.filter(|plain| plain.version >= version)),' \
    'Class::Plain => plain.filter(|plain| plain.version >= version),'
guard "the plain floor" $record \
    'let is_floor = upper.class.certifies_itself() && !lower.class.certifies_itself();' \
    'let is_floor = upper.class.certifies_itself() && !lower.class.certifies_itself() && false;'
guard "the bound of the future" $record \
    'self.time().as_millis() > wall.as_millis().saturating_add(skew)' \
    'self.time().as_millis() > wall.as_millis().saturating_add(skew) && false'
guard "a life is bounded by its version" $record \
    'Class::Plain | Class::Signed => left.min(left_by_version(now.wall, version)),' \
    'Class::Plain | Class::Signed => left.max(left_by_version(now.wall, version).min(left)),'
guard "the order by class" $record \
    'let order = (self.class.certifies_itself(), self.version, value);' \
    'let order = (other.class.certifies_itself(), self.version, value);'
guard "the order by value" $record \
    'let order = (self.class.certifies_itself(), self.version, value);' \
    'let order = (self.class.certifies_itself(), self.version, &*other.value); let _ = value;'
guard "of equal records the later end" $storage \
    'if expires > held.expires {' \
    'if expires > held.expires && false {'
guard "of equal records no other end than the later" $storage \
    'if expires > held.expires {' \
    'if expires != held.expires {'
guard "age is handed on" $record \
    'let age = ttl.millis().saturating_sub(left);' \
    'let age = ttl.millis().saturating_sub(left).min(0);'
guard "time spent switched off counts" $storage \
    'let age = age.after(now.wall.since(saved));' \
    'let _ = saved;'
guard "what ended while switched off is buried" $storage \
    'None => self.bury(now, record.key, Tombstone::of(record.rank())),' \
    'None => {}'
guard "what changes is named for the disk" $storage \
    'self.changed.drain(..)' \
    'self.changed.drain(..0)'

echo
if ((missed > 0)); then
    echo "guards that nothing misses: $missed"
    exit 1
fi
echo "every guard is missed"
