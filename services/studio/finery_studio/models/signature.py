"""Signs what a model consists of, in the form of OpenSSF model signing, and reads such signatures.

A sigstore bundle around a DSSE envelope around an in-toto statement that lists every file with its SHA-256
(https://github.com/sigstore/model-transparency); anybody checks it with ``model_signing verify key``. The key is
derived from the installation's secret and stays in studio: engines, which parse what strangers sent, do not have it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from finery_contracts.errors import InvalidRequest

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MAX_SIGNATURE_BYTES = 16 * 2**20
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve P-256 (FIPS 186-4, D.1.2.3)."""
_PURPOSE = b"finery model signature, version 1"


@dataclass(frozen=True)
class Statement:
    """What a signature says: the digest of every file, and who said so."""

    name: str
    files: Mapping[str, str]
    digest: str
    key: str


class Signer:
    """This installation's key."""

    def __init__(self, secret: bytes) -> None:
        stretched = HKDF(hashes.SHA256(), 48, salt=None, info=_PURPOSE).derive(secret)
        self._private = ec.derive_private_key(int.from_bytes(stretched, "big") % (_ORDER - 1) + 1, ec.SECP256R1())
        self.public_pem = _pem(self._private.public_key())
        self.key = fingerprint(self.public_pem)

    def sign(self, name: str, files: Mapping[str, str]) -> str:
        """The text of ``model.sig``. ``files``: SHA-256 in hex by name; the same files give the same bytes."""
        payload = json.dumps(_statement(name, files), sort_keys=True).encode()
        signed = self._private.sign(_envelope(payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        bundle = {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": self.key}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
            },
        }
        return json.dumps(bundle, indent=1) + "\n"


@dataclass(frozen=True)
class Keys:
    """Public keys whose signatures count, by fingerprint."""

    known: Mapping[str, ec.EllipticCurvePublicKey]

    @classmethod
    def of(cls, signer: Signer, files: tuple[Path, ...] = ()) -> Keys:
        """Our own and those that the operator named.

        Raises:
            InvalidRequest: ``key_unreadable``.
        """
        texts = [signer.public_pem, *(path.read_text(encoding="utf-8") for path in files)]
        keys = [_public_key(text) for text in texts]
        return cls({fingerprint(_pem(key)): key for key in keys})

    def read(self, text: str | bytes) -> Statement:
        """What the signature states, once it is known to be true.

        Raises:
            InvalidRequest: ``signature_invalid``; ``signer_unknown``: no key that counts made it.
        """
        try:
            bundle: dict[str, Any] = json.loads(text)
            hint: str = bundle["verificationMaterial"]["publicKey"]["hint"]
            envelope: dict[str, Any] = bundle["dsseEnvelope"]
            payload = base64.b64decode(envelope["payload"], validate=True)
            signed = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
            kind: str = envelope["payloadType"]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as fault:
            raise _invalid(f"it is no bundle of the expected form ({type(fault).__name__})") from fault
        key = self.known.get(hint) if isinstance(hint, str) else None
        if key is None:
            raise InvalidRequest(
                f"the signature was made with the key {str(hint)[:64]}, which this installation does not trust; an "
                "operator allows a key with FINERY_TRUSTED_KEYS",
                code="signer_unknown", param="model.sig",
            )  # fmt: skip
        if kind != PAYLOAD_TYPE or bundle.get("mediaType") != BUNDLE_TYPE:
            raise _invalid("it is of another kind")
        try:
            key.verify(signed, _envelope(payload), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as fault:
            raise _invalid("what it says was changed") from fault
        return _read_statement(payload, hint)


def fingerprint(pem: str) -> str:
    """How a public key is named, in signatures and lists."""
    return hashlib.sha256(pem.encode()).hexdigest()


def digest_of(files: Mapping[str, str]) -> str:
    """One digest for all files: SHA-256 over theirs, in the order of their names."""
    return hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files))).hexdigest()


def _statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    resources = [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in sorted(files)]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest_of(files)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [],
            },
            "resources": resources,
        },
    }  # fmt: skip


def _read_statement(payload: bytes, key: str) -> Statement:
    try:
        said: dict[str, Any] = json.loads(payload)
        listed: list[dict[str, str]] = said["predicate"]["resources"]
        files = {str(entry["name"]): str(entry["digest"]) for entry in listed if entry["algorithm"] == "sha256"}
        subject: dict[str, Any] = said["subject"][0]
        stated = str(subject["digest"]["sha256"])
        whole = len(files) == len(listed) and digest_of(files) == stated and said["predicateType"] == PREDICATE_TYPE
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as fault:
        raise _invalid("its statement cannot be read") from fault
    if not whole:
        raise _invalid("its statement contradicts itself")
    return Statement(str(subject["name"]), files, stated, key)


def _envelope(payload: bytes) -> bytes:
    """What is signed of a DSSE envelope (its pre-authentication encoding)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _public_key(pem: str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError as fault:
        raise InvalidRequest("a trusted key is no PEM public key", code="key_unreadable") from fault
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidRequest("a trusted key is no elliptic key on the curve P-256", code="key_unreadable")
    return key


def _pem(key: ec.EllipticCurvePublicKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the signature is not valid: {reason}", code="signature_invalid", param="model.sig")
