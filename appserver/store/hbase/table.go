package hbase

import (
	"context"
	"fmt"
	"strings"

	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"

	"darklaunch/appserver/store"
)

// Create makes the table, split into regions by the rows' keys. A table that is
// there already is left as it is; created tells.
//
// HBase answers when the regions are open, which takes seconds; only ctx bounds
// it.
func Create(ctx context.Context, cfg Config, regions int) (created bool, err error) {
	cfg = cfg.withDefaults()
	call := hrpc.NewCreateTable(ctx, []byte(cfg.Table), schema(), hrpc.SplitKeys(store.SplitKeys(regions)))
	err = administer(ctx, cfg, func(admin gohbase.AdminClient) error { return admin.CreateTable(call) })
	if err != nil && strings.Contains(err.Error(), "TableExistsException") {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create table %s at %s: %w", cfg.Table, cfg.Quorum, err)
	}
	return true, nil
}

// Drop removes the table with all that is in it, which takes seconds; only ctx bounds
// it. It is no error if there is none.
func Drop(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	table := []byte(cfg.Table)
	err := administer(ctx, cfg, func(admin gohbase.AdminClient) error {
		err := admin.DisableTable(hrpc.NewDisableTable(ctx, table))
		if err != nil && !strings.Contains(err.Error(), "TableNotEnabledException") {
			return err
		}
		return admin.DeleteTable(hrpc.NewDeleteTable(ctx, table))
	})
	if err != nil && !strings.Contains(err.Error(), "TableNotFoundException") {
		return fmt.Errorf("drop table %s at %s: %w", cfg.Table, cfg.Quorum, err)
	}
	return nil
}

// administer has f ask the master, and waits for it no longer than ctx does.
func administer(ctx context.Context, cfg Config, f func(gohbase.AdminClient) error) error {
	admin := gohbase.NewAdminClient(cfg.Quorum, gohbase.ZookeeperTimeout(cfg.Timeout), gohbase.RegionReadTimeout(cfg.Timeout))
	// Not closed: this version's admin client cannot be. Its connection ends
	// with the process.
	done := make(chan error, 1)
	go func() {
		err := errEnded
		defer func() { done <- err }()
		err = f(admin)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// schema is the families with what differs from HBase's defaults. One version is
// kept of a cell: history is in the log, not in the cells. None has a time to
// live: a part of a row that vanishes by itself is a write without a fence.
func schema() map[string]map[string]string {
	families := map[string]map[string]string{}
	for _, name := range familyNames[store.FenceFamily:] {
		families[name] = map[string]string{"VERSIONS": "1"}
	}
	families[familyNames[store.FenceFamily]]["IN_MEMORY"] = "true"
	// Searches read few cells here and there.
	families[familyNames[store.Keywords]]["BLOCKSIZE"] = "16384"
	return families
}
