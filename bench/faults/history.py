"""What clients sent and got, and what instances say that they served, compared.

An answer names its instance, the number of that instance's record, the request's id, and the digest of the body that came. So a
success is believed only where all of it agrees: an answer that went to another client is seen, and so is a body that did.
"""
import collections
import hashlib
import random

# One request of a client: `at` is when it was due, `took` runs from there; status 0 where no answer came, which `answer` tells then.
Sent = collections.namedtuple("Sent", "id method at took status digest answer")
# One record of an instance. `serial` is never used twice by instances of one name.
Served = collections.namedtuple("Served", "instance serial digest")


def digest(body):
    return hashlib.sha256(body).hexdigest()[:16]


def body_of(ident, method):
    """The body of a request: none of a GET's, and for each other id another, of up to two kilobytes."""
    if method == "GET":
        return b""
    return f"{ident} ".encode() * random.Random(ident).randrange(1, 200)


def answer(name, serial, ident, of):
    """What an instance says; the clients' side takes it apart again."""
    return f"{name} {serial} {ident} {of}"


def read_records(name, file):
    """The records that an instance wrote: (id, Served). One that a SIGKILL cut short cannot be: each is one write."""
    for line in file.read_text().splitlines():
        ident, serial, of = line.split(" ")
        yield ident, Served(name, serial, of)


def check(sent, served):
    """(failures by method, ids other than GETs' that were served twice, what is wrong); `served` has the records of each id."""
    failed, twice, wrong = collections.Counter(), [], []
    times = collections.Counter(request.id for request in sent)
    wrong += [f"{ident} was sent {number} times" for ident, number in times.items() if number > 1]
    wrong += [f"{ident} was served, and never sent" for ident in served if ident not in times]
    for request in sent:
        records = served.get(request.id, [])
        if request.method != "GET" and len(records) > 1:
            twice.append(request.id)
        wrong += [f"{request} came with another's body: {record}" for record in records if record.digest != request.digest]
        if not 200 <= request.status < 300:
            failed[request.method] += 1
            continue
        name, serial, ident, of = (request.answer.split(" ") + [""] * 4)[:4]
        if (ident, of) != (request.id, request.digest):
            wrong.append(f"{request} got an answer to another's")
        elif sum((record.instance, record.serial) == (name, serial) for record in records) != 1:
            wrong.append(f"{request} is not the one that any instance served: {records}")
    return failed, twice, wrong


def itself():
    """The check sees what it is there for. Raises where it doesn't."""
    def posted(ident, body, answered, status=200):
        return Sent(ident, "POST", 0.0, 0.0, status, digest(body), answered)

    one, two = digest(b"one"), digest(b"two")
    first, second = posted("1", b"one", answer("a", "1", "1", one)), posted("2", b"two", answer("b", "1", "2", two))
    right = {"1": [Served("a", "1", one)], "2": [Served("b", "1", two)]}
    assert check([first, second], right) == ({}, [], [])
    assert check([first._replace(status=0), second._replace(status=502)], right)[0] == {"POST": 2}
    swapped = [first._replace(answer=second.answer), second._replace(answer=first.answer)]
    twin = answer("a", "2", "2", two)
    twins = [first._replace(answer=twin), second._replace(answer=first.answer)]
    cases = [
        # Answers swapped between clients, of two instances and of one.
        (swapped, right, "answer to another's"),
        (twins, {**right, "2": [Served("a", "2", two)]}, "answer to another's"),
        ([first._replace(answer=answer("a", "1", "2", one)), second], right, "answer to another's"),
        ([first._replace(answer=answer("a", "1", "1", two)), second], right, "answer to another's"),
        ([first._replace(answer=""), second], right, "answer to another's"),
        ([first, second], {"1": [Served("a", "1", two)], "2": [Served("b", "1", one)]}, "another's body"),
        ([first, second], {"1": right["1"]}, "not the one"),
        ([first, second], {**right, "1": [Served("b", "1", one)]}, "not the one"),
        ([first, second], {**right, "1": [Served("a", "2", one)]}, "not the one"),
        ([first, second], {**right, "1": [*right["1"], *right["1"]]}, "not the one"),
        ([first], right, "never sent"),
        ([first, first, second], right, "sent 2 times"),
    ]
    for sent, served, told in cases:
        assert any(told in line for line in check(sent, served)[2]), (sent, served, told)
    again = {**right, "1": [*right["1"], Served("c", "1", one)]}
    assert check([first, second], again)[1:] == (["1"], [])
    got = first._replace(method="GET")
    assert check([got, second], again)[1:] == ([], []), "a GET may go out again"
