"""Names file types that callers may take for images and that are not accepted."""

_TGA_END = b"TRUEVISION-XFILE.\0"  # the end of most TGA files, whose beginning does not identify them
_DICOM_START, _DICOM = 128, b"DICM"  # offset and value of the signature of a DICOM file

_RAW = "a camera raw file"

# A file's type by its first bytes in lower case.
_STARTS = (
    (b"%pdf", "a PDF document"),
    (b"%!ps", "a PostScript file"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"\0\0\2\0", "a Windows cursor"),
    (b"icns", "an Apple icon"),
    (b"8bps", "a Photoshop document"),
    (b"gimp xcf", "a GIMP image"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cjxl ", "a JPEG XL file"),
    (b"ii\xbc", "a JPEG XR file"),
    (b"v/1\x01", "an OpenEXR file"),
    (b"#?r", "a Radiance HDR file"),
    (b"p7\n", "a PAM file"),
    (b"pf\n", "a PFM file in colour"),
    (b"simple  =", "a FITS file"),
    (b"qoif", "a QOI file"),
    (b"dds ", "a DDS texture"),
    (b"at&tform", "a DjVu document"),
    (b"fujifilmccd-raw", f"{_RAW} (RAF)"),
    (b"iiro", f"{_RAW} (ORF)"),
    (b"iirs", f"{_RAW} (ORF)"),
    (b"mmor", f"{_RAW} (ORF)"),
    (b"iiu\0", f"{_RAW} (RW2)"),
    (b"fovb", f"{_RAW} (X3F)"),
    (b"ii\x1a\0\0\0heapccdr", f"{_RAW} (CRW)"),
    (b"\x1aE\xdf\xa3".lower(), "a Matroska or WebM video"),
    (b"\x93numpy", "a NumPy array"),
    (b"\x89hdf\r\n", "an HDF5 file"),
    (b"par1", "a Parquet file"),
    (b"data:", "a data: URL given as bytes"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for,"),
)

# An ISO base media file's type by its major brand.
_BRANDS = {b"qt  ": "a QuickTime video", b"crx ": f"{_RAW} (CR3)"}
_VIDEO_BRANDS = (b"iso", b"mp4", b"avc", b"M4V", b"3g", b"dash", b"MSNV", b"f4v", b"mmp4", b"XAVC")


def name_of(data: bytes) -> str | None:
    """The type of a file that is not an accepted image, with its article; None if it is not recognised."""
    if data.endswith(_TGA_END):
        return "a TGA file"
    if data[_DICOM_START : _DICOM_START + len(_DICOM)] == _DICOM:
        return "a DICOM file"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return _BRANDS.get(brand, "an MP4 video" if brand.startswith(_VIDEO_BRANDS) else "an ISO base media file")
    if data[:4] == b"RIFF":
        return "an AVI video" if data[8:12] == b"AVI " else "a RIFF file"
    start = data[:64].lstrip().lower()
    return next((name for signature, name in _STARTS if start.startswith(signature)), None)
