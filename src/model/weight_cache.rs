//! What goes to the device as records of a pack, and back: a load from a pack makes the very
//! writes that the load from the checkpoint made.

use super::weight_plan::Role;
use super::weights::{LoadError, WeightLoader};
use crate::checkpoint::pack::Tag;
use crate::steps::Store;

/// The kind of record that holds weights.
pub const WEIGHTS: u8 = 1;

/// Hears of everything that is written to the device.
pub trait WriteLog {
    /// `payload` went where `tag` says.
    fn write(&self, tag: Tag, payload: &[u8]);
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    /// Rows of a matrix, in its dtype.
    Rows(&'a [u8]),
    /// Scales of rows.
    Scales(&'a [f32]),
    /// A whole vector.
    Vector(&'a [f32]),
}

impl<'a> Part<'a> {
    fn number(self) -> u8 {
        match self {
            Part::Rows(_) => 0,
            Part::Scales(_) => 1,
            Part::Vector(_) => 2,
        }
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Part::Rows(bytes) => bytes,
            Part::Scales(values) | Part::Vector(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Roles as they are written down; the layer is apart.
const ROLES: [fn(usize) -> Role; 10] = [
    |_| Role::Embed,
    |_| Role::Norm,
    |_| Role::Head,
    Role::InputNorm,
    |layer| Role::Qkv(layer, 0),
    Role::Output,
    Role::PostNorm,
    Role::Gate,
    Role::Up,
    Role::Down,
];
/// Parts and roles share a byte.
const PARTS_STEP: u8 = 16;

pub(super) fn tag(part: Part, role: Role, row: u32) -> Tag {
    let (whole, layer, row) = match role {
        Role::Embed | Role::Norm | Role::Head => (role, 0, row),
        // Its parts are told apart by the row of the whole.
        Role::Qkv(layer, first) => (Role::Qkv(layer, 0), layer, first + row),
        Role::InputNorm(layer)
        | Role::Output(layer)
        | Role::PostNorm(layer)
        | Role::Gate(layer)
        | Role::Up(layer)
        | Role::Down(layer) => (role, layer, row),
    };
    let number = ROLES.iter().position(|of| of(layer) == whole).unwrap_or_default() as u8;
    // Config allows far fewer layers than fit.
    Tag { kind: WEIGHTS, part: part.number() * PARTS_STEP + number, layer: layer as u16, row }
}

impl<B: Store> WeightLoader<'_, B> {
    /// Writes once more what a record holds. `false` if it holds no weights of this model.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn replay(
        &self,
        backend: &mut B,
        tag: Tag,
        payload: &[u8],
        aligned: &mut Vec<f32>,
    ) -> Result<bool, LoadError<B::Error>> {
        let (Some(role), WEIGHTS) = (ROLES.get(usize::from(tag.part % PARTS_STEP)), tag.kind) else {
            return Ok(false);
        };
        // A buffer of bytes need not lie as f32 must.
        let mut values = |payload: &[u8]| {
            aligned.clear();
            aligned.extend(payload.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)));
        };
        let part = match tag.part / PARTS_STEP {
            0 => Part::Rows(payload),
            1 => {
                values(payload);
                Part::Scales(aligned)
            }
            2 => {
                values(payload);
                Part::Vector(aligned)
            }
            _ => return Ok(false),
        };
        let (mut role, mut row) = (role(usize::from(tag.layer)), tag.row);
        if let Role::Qkv(layer, _) = role {
            let parts = Role::Qkv(layer, 0)..=Role::Qkv(layer, row);
            if let Some((&of_row @ Role::Qkv(_, first), _)) = self.plan.matrices.range(parts).next_back() {
                (role, row) = (of_row, row - first);
            }
        }
        self.put(backend, part, role, row)?;
        Ok(true)
    }
}
