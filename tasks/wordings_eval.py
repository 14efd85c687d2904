"""Evaluation wordings by instruction type: none has more than half its words in any training wording."""

from __future__ import annotations

EVAL: dict[str, tuple[str, ...]] = {
    "place_one": (
        "{the:target} needs {a:object} delivered promptly.",
        "Guests expect {a:object} waiting {on:target}.",
        "Grab whichever {one:object} you spot, destination: {the:target}.",
        "Whenever convenient, deposit {a:object} {on:target}.",
        "Our landlord expects {a:object} at {the:target} tonight.",
    ),
    "place_from": (
        "Kindly relocate {the:object}, currently lying {on:source}, {onto:target}.",
        "{the:target} suits {the:object} better than {the:source} does.",
        "Retrieve {the:object} {from:source}, destination: {the:target}.",
        "{the:object} rightfully belongs {on:target}, definitely not {on:source}.",
        "Whisk {the:object} away {from:source} {onto:target}, quickly.",
    ),
    "place_two": (
        "Gather {a:object} alongside {a:object2}; {the:target} awaits.",
        "My project requires {a:object} with {a:object2}, arranged {on:target}.",
        "Deliver {a:object}, afterwards also {a:object2}, {onto:target}.",
        "{the:target} receives {a:object}, additionally {a:object2}.",
        "Whatever happens, {a:object} joins {a:object2} {on:target}.",
    ),
    "place_two_apart": (
        "Kindly supply {the:target} with {a:object}, likewise {the:target2} with {a:object2}.",
        "{a:object} properly belongs {on:target}, whereas {a:object2} belongs {on:target2}.",
        "Kindly deposit {a:object} {on:target}, separately {a:object2} {on:target2}.",
    ),
    "swap": (
        "Reverse the positions of {the:object}, {on:source}, versus {the:object2}, {on:source2}.",
        "Interchange {the:object} ({the:source}) against {the:object2} ({the:source2}).",
        "Correct my mistake: {the:source2} takes {the:object}, {the:source} takes {the:object2}.",
    ),
    "clear": (
        "Banish all {s:object} {from:source} immediately.",
        "{the:source} looks cluttered, relocate its {s:object} elsewhere.",
        "Seeing {s:object} {on:source} annoys everyone.",
        "Kindly evacuate all {s:object} {from:source}.",
        "Whoever stored {s:object} {on:source} was mistaken, undo that.",
    ),
    "open_fridge": (
        "Unseal {the:target} so groceries fit.",
        "Swing {the:target} wide, letting cold air escape.",
        "Expose whatever {the:target} contains.",
    ),
    "close_fridge": (
        "Seal {the:target} before everything spoils.",
        "{the:target} wastes electricity, standing ajar.",
        "Stop cold air leaking out of {the:target}.",
        "Kindly prevent {the:target} from staying ajar.",
        "Milk turns sour unless {the:target} gets sealed.",
    ),
    "go_to_receptacle": (
        "Approach {the:target}.",
        "Navigate until {the:target} lies right ahead.",
        "Position yourself near {the:target}.",
    ),
    "find_object": (
        "Kindly track down {a:object}.",
        "Hunt around until {a:object} turns up.",
        "Discover whichever surface holds {a:object}.",
    ),
    "place_all": (
        "Round up whatever {s:object} exist, parking them {on:target}.",
        "{the:target} ought to become home for any {one:object} around here.",
        "Hoard our entire stock of {s:object} {on:target}.",
        "Concentrate the household's {s:object} {on:target}, leaving none elsewhere.",
        "Wherever {s:object} lie, relocate them {onto:target}.",
        "Assemble our complete collection of {s:object} {on:target}.",
        "Scattered {s:object} upset me: unite them {on:target}.",
        "Stray {s:object} deserve one home, namely {the:target}.",
        "Deliver {s:object} {onto:target} until none remain elsewhere.",
    ),
    "place_three": (
        "Distribute as follows: {a:object} {onto:target}, {a:object2} {onto:target2}, {a:object3} {onto:target3}.",
        "Remember, {a:object} belongs {on:target}, {a:object2} {on:target2}, finally {a:object3} {on:target3}.",
        "Deliver {a:object} {onto:target}, next {a:object2} {onto:target2}, lastly {a:object3} {onto:target3}.",
        "{the:target} receives {a:object}, {the:target2} {a:object2}, finally {the:target3} receives {a:object3}.",
        "Triple delivery today: {a:object} {onto:target}, {a:object2} {onto:target2}, {a:object3} {onto:target3}.",
        "Deposit {a:object} {on:target}, afterwards {a:object2} {on:target2}, eventually {a:object3} {on:target3}.",
        "Arrange these items: {a:object} {on:target}, {a:object2} {on:target2}, {a:object3} {on:target3}.",
        "Sort my belongings: {a:object} {onto:target}, {a:object2} {onto:target2}, {a:object3} {onto:target3}.",
    ),
    "refer": (
        "Spot {a:phrase}, afterwards deliver it {onto:target}.",
        "{the:target} lacks one item, namely {a:phrase}.",
        "My description: {a:phrase}. Its destination: {the:target}.",
        "Identify {a:phrase} before moving it {onto:target}.",
        "Guess what rightfully belongs {on:target}: {a:phrase}.",
        "Kindly supply {the:target} with {a:phrase}.",
        "Visitors near {the:target} requested {a:phrase}.",
        "Recognise {a:phrase} by sight, then deposit it {on:target}.",
    ),
    "purpose": (
        "Provide {a:phrase}, preferably leaving it {on:target}.",
        "Grandma requested {a:phrase}, delivered {onto:target}.",
        "{the:target} lacks {a:phrase}, kindly help.",
        "Work begins shortly: {the:target} requires {a:phrase}.",
        "Select whichever item serves as {a:phrase}, destination: {the:target}.",
        "Suppose somebody required {a:phrase}: deposit it {on:target}.",
        "Hurry, {the:target} awaits {a:phrase}.",
        "Think which belonging counts as {a:phrase}, afterwards relocate it {onto:target}.",
    ),
    "distracted": (
        "Ignoring any {s:other}, deliver {a:object} {onto:target}.",
        "Yesterday's film about {s:other} bored everyone; nevertheless {a:object} belongs {on:target}.",
        "Uncle Bob repainted {the:other_place} twice. Kindly deposit {a:object} {on:target}.",
        "Thunder scares our cat terribly, meanwhile {the:target} awaits {a:object}.",
        "Trains ran late again, everyone complained: relocate {a:object} {onto:target}.",
        "Grandpa once juggled {s:other} on stage. Transfer {a:object} {onto:target}.",
        "{the:other_place} creaks whenever someone passes; regardless, supply {the:target} with {a:object}.",
        "Shops close early, {s:other} cost little, yet {the:target} lacks {a:object}.",
        "Never mind {the:other_place}: retrieve {a:object}, destination {the:target}.",
    ),
    "spatial": (
        "Deliver {a:object}; destination: {the:place}.",
        "{a:object} belongs precisely at {the:place}.",
        "Mind these directions: {the:place} requires {a:object}.",
        "Seek {the:place}, then deposit {a:object} there.",
        "Identify {the:place} first, afterwards supply {a:object}.",
        "Relocate {a:object}, choosing {the:place} as its new home.",
        "Where exactly is {the:place}? Transport {a:object} there.",
        "Somebody standing near {the:place} requests {a:object}.",
    ),
    "if_fridge": (
        "Provided our fridge stands {is:state}, deliver {a:object} {onto:target}; "
        "failing that, {a:object2} {onto:target2}.",
        "Assuming that fridge looks {is:state}, {the:target} receives {a:object}; "
        "assuming the opposite, {the:target2} receives {a:object2}.",
        "Any fridge found {is:state} calls for {a:object} {on:target}, "
        "one found {not:state} calls for {a:object2} {on:target2}.",
        "Inspect our fridge: {a:object} belongs {on:target} provided it's {is:state}, "
        "whereas {a:object2} belongs {on:target2} provided it's {not:state}.",
        "Unless our fridge turns out {not:state}, deposit {a:object} {on:target}; "
        "in that case, deposit {a:object2} {on:target2}.",
        "Suppose you discover our fridge {is:state}: relocate {a:object} {onto:target}. "
        "Suppose you discover it {not:state}: relocate {a:object2} {onto:target2}.",
        "Let our fridge decide: {is:state} requests {a:object} {onto:target}, "
        "{not:state} requests {a:object2} {onto:target2}.",
        "Depending on our fridge, deliver {a:object} {onto:target} (found {is:state}) "
        "or {a:object2} {onto:target2} (found {not:state}).",
    ),
}
