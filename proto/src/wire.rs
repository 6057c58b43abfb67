//! The codec of all calls between tiers. It is prost's, except where a test makes a process pretend
//! to be of a later version (see [`crate::versions::ENV`]). Such a process adds an unknown field to
//! each message and to each frame in it, and from time to time it sends a frame of an unknown kind.

use std::any::TypeId;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BufMut;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::versions::{Pretence, pretence};
use crate::{PeerBatch, ToEdgeBatch, ToRouterBatch};

/// The number of the field that no version has.
const UNKNOWN: u32 = 19_000 - 1;
/// Of this many messages with frames, one ends with a frame of a kind that no version has.
const EVERY: u64 = 8;

static MESSAGES: AtomicU64 = AtomicU64::new(0);

/// See the module.
#[derive(Debug)]
pub struct WireCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for WireCodec<T, U> {
    fn default() -> Self {
        WireCodec(PhantomData)
    }
}

impl<T, U> Codec for WireCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = WireEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> WireEncoder<T> {
        WireEncoder(ProstCodec::<T, U>::raw_encoder(BufferSettings::default()))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::default())
    }
}

/// Encodes `T`.
#[derive(Debug)]
pub struct WireEncoder<T>(ProstEncoder<T>);

impl<T: Message + 'static> Encoder for WireEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if pretence() == Pretence::None {
            return self.0.encode(item, buf);
        }
        let count = MESSAGES.fetch_add(1, Ordering::Relaxed);
        let message = item.encode_to_vec();
        buf.put_slice(&later(&message, frames::<T>(), count.is_multiple_of(EVERY)));
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// The field of a batch that holds its frames.
fn frames<T: 'static>() -> Option<u32> {
    let is = |other: TypeId| TypeId::of::<T>() == other;
    if is(TypeId::of::<ToRouterBatch>()) || is(TypeId::of::<PeerBatch>()) {
        Some(1)
    } else if is(TypeId::of::<ToEdgeBatch>()) {
        Some(3)
    } else {
        None
    }
}

/// The message as a later version could send it: with an unknown field in itself and in each frame, and
/// with a last frame of an unknown `kind`, for the slot of the frame before it.
fn later(message: &[u8], frames: Option<u32>, kind: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 64);
    let mut last = None;
    for (number, field, body) in fields(message) {
        match body {
            Some(frame) if Some(number) == frames => {
                let mut frame = frame.to_vec();
                last = Some(header(&frame));
                put(&mut frame, UNKNOWN, b"later");
                put(&mut out, number, &frame);
            }
            _ => out.extend_from_slice(field),
        }
    }
    if let (Some(number), Some(mut frame), true) = (frames, last, kind) {
        put(&mut frame, UNKNOWN, b"kind");
        put(&mut out, number, &frame);
    }
    put(&mut out, UNKNOWN, b"later");
    out
}

/// Slot and epoch of an encoded frame: its fields that are numbers.
fn header(frame: &[u8]) -> Vec<u8> {
    let numbers = fields(frame)
        .into_iter()
        .filter(|(.., body)| body.is_none());
    numbers
        .flat_map(|(_, field, _)| field.iter().copied())
        .collect()
}

fn put(out: &mut Vec<u8>, number: u32, body: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

/// The fields of a message: number, the whole field, and what is in it where it has a length.
fn fields(mut rest: &[u8]) -> Vec<(u32, &[u8], Option<&[u8]>)> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let whole = rest;
        let Ok((number, wire)) = decode_key(&mut rest) else {
            break;
        };
        let mut body = None;
        let taken = match wire {
            WireType::Varint => decode_varint(&mut rest).ok().map(|_| 0),
            WireType::SixtyFourBit => Some(8),
            WireType::ThirtyTwoBit => Some(4),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).ok();
                let length = length.and_then(|length| usize::try_from(length).ok());
                body = length.and_then(|length| rest.get(..length));
                length
            }
            WireType::StartGroup | WireType::EndGroup => None,
        };
        let Some(after) = taken.and_then(|taken| rest.get(taken..)) else {
            break;
        };
        rest = after;
        all.push((number, &whole[..whole.len() - rest.len()], body));
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Acked, PeerFrame, ToEdge, ToRouter, UserChanged, to_router};

    #[test]
    fn fields_and_kinds_of_a_later_version_are_skipped_and_the_rest_is_read() {
        let frame = |n| ToRouter {
            slot: 7,
            epoch: 40,
            body: Some(to_router::Body::Acked(Acked {
                handle: n,
                ..Acked::default()
            })),
        };
        let batch = ToRouterBatch {
            frames: vec![frame(1), frame(2)],
        };
        let sent = later(&batch.encode_to_vec(), frames::<ToRouterBatch>(), true);
        let got = ToRouterBatch::decode(&sent[..]).unwrap();
        assert_eq!(got.frames[..2], batch.frames[..]);
        let unknown = ToRouter {
            slot: 7,
            epoch: 40,
            body: None,
        };
        assert_eq!(got.frames[2..], [unknown], "a frame of an unknown kind");
        let sent = later(&batch.encode_to_vec(), frames::<ToRouterBatch>(), false);
        assert_eq!(ToRouterBatch::decode(&sent[..]).unwrap(), batch);
        assert!(sent.len() > batch.encoded_len() + 20, "nothing was added");
    }

    #[test]
    fn every_batch_keeps_its_own_fields() {
        let batch = ToEdgeBatch {
            worker: 3,
            seq: 9,
            frames: vec![ToEdge::default()],
        };
        let sent = later(&batch.encode_to_vec(), frames::<ToEdgeBatch>(), true);
        let got = ToEdgeBatch::decode(&sent[..]).unwrap();
        assert_eq!((got.worker, got.seq, got.frames.len()), (3, 9, 2));
        let batch = PeerBatch {
            frames: vec![PeerFrame::default()],
        };
        let sent = later(&batch.encode_to_vec(), frames::<PeerBatch>(), false);
        assert_eq!(PeerBatch::decode(&sent[..]).unwrap(), batch);
        let other = UserChanged {
            bare: "a@b".to_owned(),
            close: true,
        };
        let sent = later(&other.encode_to_vec(), frames::<UserChanged>(), true);
        assert_eq!(UserChanged::decode(&sent[..]).unwrap(), other);
    }
}
